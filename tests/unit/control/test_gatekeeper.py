from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest

from medianode.auth import Door, Gatekeeper, Permission, Takeover, same_secret
from medianode.control import tokens
from medianode.control.gatekeeper import credential
from medianode.control.tokens import mint
from medianode.errors import Forbidden, InvalidRequest, NotFound, PeerError, TooManyRequests, Unauthorized
from medianode.media.track import Kind


@pytest.fixture
async def live(house: Any) -> Any:
    return await house.projects.create("live", viewing="token")


def test_it_is_a_gatekeeper(house: Any) -> None:
    gate: Gatekeeper = house.gate
    assert gate is house.gate


@pytest.mark.parametrize("form", ["{key}", "studio?key={key}", "anything?streamKey={key}", "x?pass={key}", "?key={key}"])
@pytest.mark.parametrize("app", ["live", "elsewhere"])
async def test_publish_by_stream_key(house: Any, live: Any, form: str, app: str) -> None:
    made = await house.ingresses.create(live, Door.RTMP, "studio", "ada", "Ada", takeover=Takeover.REJECT)
    grant = await house.gate.publish(Door.RTMP, app, form.format(key=made.stream_key))
    assert (grant.project_id, grant.slug, grant.room, grant.identity, grant.name) == (live.id, "live", "live-studio", "ada", "Ada")
    assert (grant.ingress_id, grant.kind, grant.takeover, grant.hold) == (made.id, Door.RTMP, Takeover.REJECT, 15.0)


async def test_publish_is_refused(house: Any, live: Any) -> None:
    rtmp = await house.ingresses.create(live, Door.RTMP, "studio")
    gone = await house.ingresses.create(live, Door.RTMP, "gone")
    await house.ingresses.delete(live.id, gone.id)
    api = await house.keys.create("ops", ["admin"])
    for door, key in (
        (Door.RTMP, "studio"),
        (Door.RTMP, ""),
        (Door.RTMP, gone.stream_key),
        (Door.RTMP, api.secret),
        (Door.WHIP, rtmp.stream_key),
    ):
        with pytest.raises(Unauthorized) as caught:
            await house.gate.publish(door, "live", key, source=key)
        assert key == "" or key not in str(caught.value) or key == "studio"


async def test_publish_with_a_password(house: Any, live: Any) -> None:
    made = await house.ingresses.create(live, Door.RTMP, "studio", with_password=True)
    key, password = made.stream_key, made.password
    assert (await house.gate.publish(Door.RTMP, "live", f"{key}?pass={password}")).ingress_id == made.id
    assert (await house.gate.publish(Door.RTMP, "live", f"x?key={key}&pass={password}")).ingress_id == made.id
    assert (await house.gate.publish(Door.RTMP, "live", key, proves=lambda s: same_secret(s, password))).ingress_id == made.id
    for name, proof in ((key, None), (f"{key}?pass=x", None), (f"x?pass={key}", None), (f"{key}?key={key}", None), (key, key)):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.RTMP, "live", name, proves=proof and (lambda s: same_secret(s, key)), source=name)


async def test_publish_by_obs_user_and_password(house: Any, live: Any) -> None:
    """Adobe's challenge comes before the stream name and never shows the password: `proves` is asked about the keys of the room named."""
    first = await house.ingresses.create(live, Door.RTMP, "studio", "a")
    second = await house.ingresses.create(live, Door.RTMP, "studio", "b")
    locked = await house.ingresses.create(live, Door.RTMP, "studio", "c", with_password=True)
    for made, secret in ((first, first.stream_key), (second, second.stream_key), (locked, locked.password)):
        grant = await house.gate.publish(Door.RTMP, "live", "studio", proves=lambda s, secret=secret: same_secret(s, secret))
        assert grant.ingress_id == made.id
    for name, secret in (("studio", "x"), ("other", first.stream_key), ("studio", locked.stream_key), ("../x", first.stream_key)):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.RTMP, "live", name, proves=lambda s, secret=secret: same_secret(s, secret), source=name + secret)


async def test_publish_without_a_key_where_the_project_is_open(house: Any, live: Any) -> None:
    with pytest.raises(Unauthorized):
        await house.gate.publish(Door.RTMP, "live", "studio")
    await house.projects.change("live", open_publish=True)
    grant = await house.gate.publish(Door.RTMP, "live", "studio")
    assert (grant.room, grant.identity, grant.ingress_id, grant.takeover) == ("live-studio", "ingress-live", None, Takeover.REJECT)
    with pytest.raises(InvalidRequest):
        await house.gate.publish(Door.RTMP, "live", "../etc")
    by_whip = await house.gate.publish(Door.WHIP, "live", "", "studio")
    assert (by_whip.room, by_whip.identity, by_whip.kind, by_whip.ingress_id) == ("live-studio", "ingress-live", Door.WHIP, None)
    for door, name in ((Door.RTMP, "studio?key=wrong"), (Door.WS_MJPEG, "studio"), (Door.WHIP, "studio")):
        with pytest.raises(Unauthorized):
            await house.gate.publish(door, "live", name, source=name)
    with pytest.raises(Unauthorized):
        await house.gate.publish(Door.RTMP, "elsewhere", "studio")


async def test_a_camera_needs_its_own_app_and_room(house: Any, live: Any) -> None:
    await house.projects.create("other")
    made = await house.ingresses.create(live, Door.WS_MJPEG, "yard")
    for room in ("yard", "live-yard"):
        assert (await house.gate.publish(Door.WS_MJPEG, "live", made.stream_key, room)).ingress_id == made.id
    for app, room in (("live", "gate"), ("other", "yard"), ("", "yard"), ("live", "")):
        with pytest.raises(Unauthorized) as caught:
            await house.gate.publish(Door.WS_MJPEG, app, made.stream_key, room)
        assert caught.value.code == "room-mismatch"
    with pytest.raises(PeerError):
        await house.gate.publish(Door.WS_MJPEG, "live", made.stream_key, "../yard")


@pytest.mark.parametrize("room", [None, "studio", "live-studio"])
async def test_whip_by_stream_key(house: Any, live: Any, room: str | None) -> None:
    made = await house.ingresses.create(live, Door.WHIP, "studio", "ada", "Ada", bypass_transcoding=True)
    grant = await house.gate.publish(Door.WHIP, "live", made.stream_key, room)
    assert (grant.room, grant.identity, grant.name, grant.ingress_id) == ("live-studio", "ada", "Ada", made.id)
    assert (grant.kind, grant.bypass_transcoding, grant.kinds) == (Door.WHIP, True, frozenset(Kind))


async def test_whip_with_the_key_in_the_place_of_the_room(house: Any, live: Any) -> None:
    made = await house.ingresses.create(live, Door.WHIP, "studio")
    for app in ("live", "whatever"):
        assert (await house.gate.publish(Door.WHIP, app, "", made.stream_key)).room == "live-studio"


async def test_guesses_in_the_place_of_the_room_are_counted(house: Any, live: Any) -> None:
    refused: list[type[PeerError]] = []
    for i in range(100):
        try:
            await house.gate.publish(Door.WHIP, "live", "", f"guess{i}", source="192.0.2.7")
        except PeerError as e:
            refused.append(type(e))
    assert len(refused) == 100
    assert refused[0] is Unauthorized
    assert refused[-1] is TooManyRequests


async def test_whip_is_refused(house: Any, live: Any) -> None:
    made = await house.ingresses.create(live, Door.WHIP, "studio")
    rtmp = await house.ingresses.create(live, Door.RTMP, "studio", "obs")
    await house.projects.create("other")
    for app, key, room, code in (
        ("live", "", "studio", "token-missing"),
        ("live", "wrong", "studio", "unauthorized"),
        ("live", made.stream_key, "elsewhere", "room-mismatch"),
        ("other", made.stream_key, "studio", "room-mismatch"),
        ("live", rtmp.stream_key, "studio", "wrong-door"),
        ("live", "", rtmp.stream_key, "wrong-door"),
    ):
        with pytest.raises(Unauthorized) as caught:
            await house.gate.publish(Door.WHIP, app, key, room, source=f"{app}{room}")
        assert caught.value.code == code
        assert made.stream_key not in str(caught.value)
    with pytest.raises(Unauthorized) as caught:
        await house.gate.publish(Door.RTMP, "live", made.stream_key)
    assert (caught.value.code, caught.value.message) == (
        "wrong-door",
        "this stream key is of an ingress of kind whip: rtmp needs one of its own",
    )


async def test_a_key_of_another_door_is_no_guess(house: Any, live: Any) -> None:
    made = await house.ingresses.create(live, Door.WHIP, "studio")
    for _ in range(3 * house.failures):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.RTMP, "live", made.stream_key, source="a")
    assert (await house.gate.publish(Door.WHIP, "live", made.stream_key, source="a")).ingress_id == made.id


async def test_whip_by_room_token(house: Any, live: Any, time: Any) -> None:
    text, _ = mint(live, at=time.wall, room="studio", identity="ada", name="Ada")
    for room in ("studio", "live-studio", None):
        grant = await house.gate.publish(Door.WHIP, "live", text, room)
        assert (grant.room, grant.identity, grant.name, grant.ingress_id, grant.kind) == ("live-studio", "ada", "Ada", None, Door.WHIP)
    for room in ("other", "live"):
        with pytest.raises(Forbidden):
            await house.gate.publish(Door.WHIP, "live", text, room)
    viewer, _ = mint(live, at=time.wall, room="studio", identity="bob", can_publish=False)
    with pytest.raises(Forbidden):
        await house.gate.publish(Door.WHIP, "live", viewer, "studio")
    with pytest.raises(NotFound):
        await house.gate.publish(Door.WHIP, "nowhere", text, "studio")
    other = await house.projects.create("other")
    foreign, _ = mint(other, at=time.wall, room="studio", identity="ada")
    late, _ = mint(live, at=time.wall - 7200, room="studio", identity="ada", ttl="1h")
    for wrong, code in ((foreign, "unauthorized"), (late, "token-expired"), (text[:-2], "unauthorized")):
        with pytest.raises(Unauthorized) as caught:
            await house.gate.publish(Door.WHIP, "live", wrong, "studio", source="b")
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("sources", "kinds"),
    [
        (["microphone"], {Kind.AUDIO}),
        (["camera"], {Kind.VIDEO}),
        (["screen_share", "screen_share_audio"], {Kind.VIDEO, Kind.AUDIO}),
        (["smell"], None),
    ],
)
async def test_a_token_may_name_what_is_published(house: Any, live: Any, time: Any, sources: list[str], kinds: set[Kind] | None) -> None:
    video = {"roomJoin": True, "room": "live-studio", "canPublishSources": sources}
    claims = {"iss": live.jwt_key_id, "sub": "ada", "exp": time.wall + 60, "video": video}
    text = jwt.encode(claims, live.jwt_secret, algorithm="HS256")
    if kinds is None:
        with pytest.raises(Forbidden):
            await house.gate.publish(Door.WHIP, "live", text, "studio")
    else:
        assert (await house.gate.publish(Door.WHIP, "live", text, "studio")).kinds == kinds


async def test_a_token_without_identity_publishes_nothing(house: Any, live: Any, time: Any) -> None:
    claims = {"iss": live.jwt_key_id, "exp": time.wall + 60, "video": {"roomJoin": True, "room": "live-studio"}}
    with pytest.raises(Forbidden):
        await house.gate.publish(Door.WHIP, "live", jwt.encode(claims, live.jwt_secret, algorithm="HS256"), "studio")


async def test_the_source_that_guesses_is_stopped_and_nobody_else(house: Any, live: Any, time: Any) -> None:
    made = await house.ingresses.create(live, Door.RTMP, "studio")
    for i in range(house.failures):
        with pytest.raises(Unauthorized):
            await house.gate.publish(Door.RTMP, "live", f"guess{i}", source="10.0.0.1")
    for attempt in (
        house.gate.publish(Door.RTMP, "live", made.stream_key, source="10.0.0.1"),
        house.gate.play("live", made.stream_key, source="10.0.0.1"),
        house.gate.read("live", "studio", "sk_x", source="10.0.0.1"),
        house.gate.control("Bearer sk_x", Permission.VIEW, source="10.0.0.1"),
    ):
        with pytest.raises(TooManyRequests):
            await attempt
    assert await house.gate.publish(Door.RTMP, "live", made.stream_key, source="10.0.0.2")
    time.pass_by(60.0)
    assert await house.gate.publish(Door.RTMP, "live", made.stream_key, source="10.0.0.1")


async def test_what_is_no_guess_does_not_count(house: Any, live: Any, time: Any) -> None:
    text, _ = mint(live, at=time.wall - 7200, room="studio", ttl="1h")
    viewer = await house.keys.create("viewer", ["view"], "live")
    for _ in range(3 * house.failures):
        for attempt, error in (
            (house.gate.read("live", "studio", text, source="a"), Unauthorized),
            (house.gate.read("live", "studio", source="a"), Unauthorized),
            (house.gate.control(None, Permission.VIEW, source="a"), Unauthorized),
            (house.gate.control(f"Bearer {viewer.secret}", Permission.ADMIN, source="a"), Forbidden),
        ):
            with pytest.raises(error):
                await attempt


async def test_read_public(house: Any) -> None:
    shop = await house.projects.create("shop")
    for app in ("shop", shop.id):
        for room in ("a", "shop-a"):
            assert (await house.gate.read(app, room)).room == "shop-a"
    with pytest.raises(NotFound):
        await house.gate.read("none", "a")
    with pytest.raises(InvalidRequest):
        await house.gate.read("shop", "../a")


async def test_read_by_token(house: Any, live: Any, time: Any) -> None:
    other = await house.projects.create("other")
    text, said = mint(live, at=time.wall, room="studio", identity="ada", hidden=True, audio_only=True)
    for grant in (await house.gate.read("live", "studio", text), await house.gate.read("live", "live-studio", bearer=text)):
        assert (grant.room, grant.identity, grant.expires_at, grant.hidden, grant.audio_only) == (
            "live-studio",
            "ada",
            said.expires_at + tokens.LEEWAY,
            True,
            True,
        )
    for room, options in (("other", {}), ("studio", {"can_subscribe": False})):
        text, _ = mint(live, at=time.wall, room=room, **options)
        with pytest.raises(Forbidden):
            await house.gate.read("live", "studio", text)
    text, _ = mint(other, at=time.wall, room="live-studio")
    with pytest.raises(Unauthorized):
        await house.gate.read("live", "studio", text)
    with pytest.raises(Unauthorized) as caught:
        await house.gate.read("live", "studio")
    assert caught.value.code == "token-missing"


async def test_a_token_seen_before_is_not_verified_again_and_still_expires(
    house: Any, live: Any, time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = 0
    verify = tokens.verify

    def counted(*arguments: Any) -> Any:
        nonlocal verified
        verified += 1
        return verify(*arguments)

    monkeypatch.setattr(tokens, "verify", counted)
    text, said = mint(live, at=time.wall, room="studio", ttl="5s")
    for _ in range(10):
        assert (await house.gate.read("live", "studio", text)).room == "live-studio"
    assert verified == 1
    with pytest.raises(Forbidden):
        await house.gate.read("live", "other", text)
    time.monotonic += 29.0
    assert await house.gate.read("live", "studio", text)
    time.wall = said.expires_at + tokens.LEEWAY + 1
    with pytest.raises(Unauthorized) as caught:
        await house.gate.read("live", "studio", text)
    assert caught.value.code == "token-expired"
    assert verified == 3


async def test_read_by_api_key(house: Any, live: Any) -> None:
    await house.projects.create("other")
    for permissions, project, good in (
        (["view"], "live", True),
        (["live"], "live", True),
        (["admin"], None, True),
        (["view"], None, True),
        (["admin"], "other", False),
    ):
        made = await house.keys.create("k", permissions, project)
        if good:
            assert (await house.gate.read("live", "studio", bearer=made.secret)).room == "live-studio"
            assert (await house.gate.read("live", "studio", made.secret)).room == "live-studio"
        else:
            with pytest.raises(Forbidden):
                await house.gate.read("live", "studio", bearer=made.secret)


async def test_play(house: Any, live: Any, time: Any) -> None:
    made = await house.ingresses.create(live, Door.RTMP, "studio")
    viewer = await house.keys.create("k", ["view"], "live")
    text, _ = mint(live, at=time.wall, room="studio")
    for name in (
        made.stream_key,
        f"studio?key={made.stream_key}",
        f"studio?token={text}",
        f"studio?key={viewer.secret}",
        f"live-studio?pass={text}",
    ):
        assert (await house.gate.play("live", name)).room == "live-studio"
    with pytest.raises(Unauthorized):
        await house.gate.play("live", "studio")
    with pytest.raises(Unauthorized):
        await house.gate.play("live", "studio?key=wrong")
    await house.projects.change("live", viewing="public")
    assert (await house.gate.play("live", "studio")).room == "live-studio"


async def test_control(house: Any, live: Any) -> None:
    other = await house.projects.create("other")
    admin = await house.keys.create("admin", ["admin"])
    bound = await house.keys.create("bound", ["live"], "live")

    principal = await house.gate.control(f"Bearer {admin.secret}", Permission.ADMIN)
    assert (principal.key_id, principal.project_id, principal.slug, principal.node) == (admin.key.id, None, None, True)
    for project in ("other", other.id):
        assert (await house.gate.control(f"bearer {admin.secret}", Permission.LIVE, project)).project_id == other.id
    for project in (None, "live", live.id):
        principal = await house.gate.control(f"Bearer {bound.secret}", Permission.VIEW, project)
        assert (principal.project_id, principal.slug, principal.node) == (live.id, "live", False)
    basic = base64.b64encode(f"{bound.key.id}:{bound.secret}".encode()).decode()
    assert (await house.gate.control(f"Basic {basic}", Permission.LIVE)).key_id == bound.key.id

    with pytest.raises(NotFound):
        await house.gate.control(f"Bearer {admin.secret}", Permission.ADMIN, "none")
    for project in ("other", "none"):
        with pytest.raises(Forbidden) as caught:
            await house.gate.control(f"Bearer {bound.secret}", Permission.LIVE, project)
        assert caught.value.code == "other-project"
    with pytest.raises(Forbidden, match="permission admin"):
        await house.gate.control(f"Bearer {bound.secret}", Permission.ADMIN, "live")
    await house.keys.revoke(bound.key.id)
    with pytest.raises(Unauthorized, match="revoked"):
        await house.gate.control(f"Bearer {bound.secret}", Permission.LIVE)


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer K", "K"), ("bearer  K ", "K"), ("Basic dTpr", "k"), ("Basic dTo=", "u"), ("BASIC Omth", "ka"), ("Basic OmE6Yg==", "a:b")],
)
def test_credential(header: str, key: str) -> None:
    assert credential(header) == key


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "K", "Basic", "Basic !", "Basic /w==", "Basic Og==", "Digest x", "Basic é", "\0"]
)
def test_no_credential(header: str | None) -> None:
    with pytest.raises(Unauthorized, match=r"^authorization: "):
        credential(header)
