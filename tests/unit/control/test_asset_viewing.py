"""Who may view an asset: public ones everybody, private ones by a token made for it, a link, a key; restrictions of the stream it is of."""

from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest

from medianode.auth import Means
from medianode.control.live_streams import LiveStreams, Policy
from medianode.control.signing_keys import SigningKeys
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.store import recordings
from medianode.store.recordings import Recording

PUBLIC, PRIVATE = "0f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10", "0f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f11"
DENY = {"defaultPolicy": "deny", "allow": ["shop.example"], "deny": []}


@pytest.fixture
async def shop(house: Any) -> Any:
    """A live stream, open to everybody, with a public and a private asset."""
    project = await house.projects.create("shop")
    streams = LiveStreams(house.db, house.bus, house.ingresses, playback_ids=5)
    made = await streams.create(project, Policy(access_policy="public"))
    ingress = made.ingress
    async with house.db.write() as tx:
        for name, playback_id, policy in (("rec_a", PUBLIC, "public"), ("rec_b", PRIVATE, "private")):
            fields: dict[str, Any] = {"started_at": 1.0, "node_id": "n", "directory": "/d", "state": "finished", "ingress_id": ingress.id}
            fields |= {"playback_id": playback_id, "access_policy": policy}
            await recordings.insert_recording(tx, Recording(id=name, project_id=project.id, room=ingress.room, **fields))
    return project, streams, made


async def test_a_public_one_is_open_as_far_as_its_stream_was(house: Any, shop: Any) -> None:
    project, streams, made = shop
    grant = await house.gate.read_asset(PUBLIC)
    assert (grant.recording_id, grant.playback_id, grant.means, grant.shared) == ("rec_a", PUBLIC, Means.PLAYBACK, True)
    await house.gate.still(grant)
    with pytest.raises(NotFound) as unknown:
        await house.gate.read_asset("0f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f12")
    assert unknown.value.code == "no-such-playback-id"
    # who was kept from the stream by its only public id is kept from what was recorded of it
    await streams.restrict(project.id, made.ingress.id, made.playback_ids[0].id, "domains", DENY)
    with pytest.raises(Forbidden) as refused:
        await house.gate.read_asset(PUBLIC)
    assert refused.value.code == "domain-refused"
    assert (await house.gate.read_asset(PUBLIC, site="https://shop.example")).shared is False


async def test_a_private_one_needs_a_token_that_is_for_it(house: Any, shop: Any, time: Any) -> None:
    project, _, made = shop
    with pytest.raises(Unauthorized) as closed:
        await house.gate.read_asset(PRIVATE)
    assert closed.value.code == "token-missing"
    keys = SigningKeys(house.db, house.bus, per_project=2)
    key = await keys.create(project)

    def token(playback_id: str, **claims: Any) -> str:
        body = {"aud": f"media:{playback_id}", "exp": time.wall + 600, "kid": key.key.id, **claims}
        return jwt.encode(body, base64.b64decode(key.private_key), algorithm="RS256")

    grant = await house.gate.read_asset(PRIVATE, token(PRIVATE, jti="one"))
    assert (grant.recording_id, grant.token_id, grant.key_id, grant.shared) == ("rec_b", "one", key.key.id, False)
    await house.gate.still(grant)
    for other in (PUBLIC, made.playback_ids[0].id):
        with pytest.raises(Forbidden, match="not for viewing it"):
            await house.gate.read_asset(PRIVATE, token(other))
    with pytest.raises(Unauthorized) as late:
        await house.gate.read_asset(PRIVATE, token(PRIVATE, exp=time.wall - 3600))
    assert late.value.code == "token-expired"
    with pytest.raises(Unauthorized):
        await house.gate.read_asset(PRIVATE, "mk_nobodys")
    await keys.delete(project.id, key.key.id)
    with pytest.raises(Unauthorized):
        await house.gate.still(grant)
    with pytest.raises(Unauthorized):
        await house.gate.read_asset(PRIVATE, token(PRIVATE))
