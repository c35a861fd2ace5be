"""Who may publish by SRT: the stream id brings the key, the passphrase proves a secret that is never shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medianode.auth import Door, same_secret
from medianode.control.live_streams import LiveStreams, Policy
from medianode.errors import TooManyRequests, Unauthorized


@pytest.fixture
async def live(house: Any) -> Any:
    return await house.projects.create("live", viewing="token")


@pytest.fixture
async def stream(house: Any, live: Any) -> Any:
    return await LiveStreams(house.db, house.bus, house.ingresses, playback_ids=10).create(live, Policy())


def passphrase(secret: str) -> Callable[[str], bool]:
    return lambda tried: same_secret(tried, secret)


async def test_a_live_streams_key_opens_it_in_the_clear_or_with_its_srt_secret(house: Any, live: Any, stream: Any) -> None:
    key, secret = stream.ingress.stream_key, stream.stream.srt_secret
    for app, proves in (("", None), ("live", None), ("", passphrase(secret)), ("elsewhere", passphrase(secret))):
        grant = await house.gate.publish(Door.SRT, app, key, proves=proves)
        assert (grant.ingress_id, grant.kind) == (stream.ingress.id, Door.SRT)
    for wrong in ("not the secret", key):
        with pytest.raises(Unauthorized) as told:
            await house.gate.publish(Door.SRT, "", key, source=wrong, proves=passphrase(wrong))
        assert told.value.code == "wrong-passphrase"
        assert key not in str(told.value)


async def test_the_passphrase_alone_says_which_ingress_of_a_room_is_meant(house: Any, live: Any, stream: Any) -> None:
    grant = await house.gate.publish(Door.SRT, "live", stream.ingress.id, proves=passphrase(stream.stream.srt_secret))
    assert grant.ingress_id == stream.ingress.id
    first = await house.ingresses.create(live, Door.RTMP, "studio", "a")
    locked = await house.ingresses.create(live, Door.RTMP, "studio", "b", with_password=True)
    for made, secret in ((first, first.stream_key), (locked, locked.password)):
        assert (await house.gate.publish(Door.SRT, "live", "studio", proves=passphrase(secret))).ingress_id == made.id
    for room, secret in (("studio", locked.stream_key), ("other", first.stream_key), ("../x", "x"), ("studio", "x")):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.SRT, "live", room, source=room + secret, proves=passphrase(secret))


async def test_keys_of_rtmp_open_srt_and_a_password_is_its_passphrase(house: Any, live: Any) -> None:
    plain = await house.ingresses.create(live, Door.RTMP, "studio", "a")
    locked = await house.ingresses.create(live, Door.RTMP, "studio", "b", with_password=True)
    whip = await house.ingresses.create(live, Door.WHIP, "studio", "c")
    assert (await house.gate.publish(Door.SRT, "", plain.stream_key)).ingress_id == plain.id
    assert (await house.gate.publish(Door.SRT, "live", plain.stream_key, "studio")).ingress_id == plain.id
    assert (await house.gate.publish(Door.SRT, "", locked.stream_key, proves=passphrase(locked.password))).ingress_id == locked.id
    for key, room, proves in (
        (locked.stream_key, None, None),
        (locked.stream_key, None, passphrase(locked.stream_key)),
        (plain.stream_key, "elsewhere", None),
        (whip.stream_key, None, None),
        ("studio", None, None),
    ):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.SRT, "live", key, room, source=f"{key} {proves}", proves=proves)


async def test_wrong_passphrases_are_slowed_like_wrong_keys(house: Any, live: Any, stream: Any) -> None:
    for _ in range(100):
        try:
            await house.gate.publish(Door.SRT, "", stream.ingress.stream_key, source="192.0.2.1", proves=passphrase("guess"))
        except TooManyRequests:
            break
        except Unauthorized:
            continue
    else:
        pytest.fail("nobody was slowed")
    assert await house.gate.publish(Door.SRT, "", stream.ingress.stream_key, source="192.0.2.2")


async def test_an_open_project_takes_a_room_without_a_key(house: Any) -> None:
    await house.projects.create("open", open_publish=True)
    grant = await house.gate.publish(Door.SRT, "open", "studio")
    assert (grant.room, grant.ingress_id) == ("open-studio", None)
