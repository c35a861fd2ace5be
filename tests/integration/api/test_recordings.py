"""Recordings over HTTP: our own API, StreamHub's and FastPix's media, over the real use cases with a stand-in for the recorder."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medianode import clock
from medianode.errors import LimitExceeded
from medianode.media.parts import Part, pack
from medianode.store import recording_files, recordings, schema
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import background

SOME = "/api/v1/projects/live/recordings"
HUB = "/api/v1/apps/live"


@pytest.fixture
async def key(house: Any) -> str:
    """Of an ingress that publishes into room `demo` as `obs`."""
    made = await house.ask("POST", f"{HUB}/ingress", {"inputType": "rtmp", "room": "demo", "participantIdentity": "obs"})
    found: str = made.data["streamKey"]
    await house.publish(found)
    return found


async def told(house: Any) -> list[str]:
    await house.ledger.write()
    found = (await house.ask("GET", "/v1/events?limit=100")).body["data"]
    return [event["type"] for event in found if event["type"].startswith(("recording.", "asset."))]


async def test_started_stopped_listed_titled_pinned_and_deleted(house: Any, key: str) -> None:
    made = await house.ask("POST", SOME, {"room": "demo", "title": "Press", "labels": {"case": "17"}})
    assert (made.status, made.data["state"], made.data["room"], made.data["identity"]) == (201, "recording", "live-demo", "")
    one = f"{SOME}/{made.data['id']}"
    assert (await house.ask("GET", one)).data["labels"] == {"case": "17"}, "known before its row is written"
    again = await house.ask("POST", SOME, {"room": "live-demo"})
    assert (again.status, again.headers["X-Error-Code"]) == (409, "already-recording")
    assert (await house.ask("POST", SOME, {"room": "demo", "identity": "obs"})).status == 201, "that is another"
    stopped = await house.ask("POST", f"{one}/stop")
    assert (stopped.status, stopped.data["state"], stopped.data["duration"], stopped.data["bytes"]) == (200, "finished", 10.0, 3000)
    assert (await house.ask("POST", f"{one}/stop")).headers["X-Error-Code"] == "not-recording"
    detail = (await house.ask("GET", one)).data
    assert [(f["name"], f["duration"], f["tracks"][0]["codec"]) for f in detail["files"]] == [("000001.mp4", 10.0, "h264")]
    assert detail["urls"]["hls"] == f"https://media.example.com/vod/live/{detail['id']}/index.m3u8"
    assert (detail["gaps"], detail["upload"]["state"]) == ([], "none")
    changed = await house.ask("PATCH", one, {"pinned": True, "title": "Kept"})
    assert (changed.data["pinned"], changed.data["title"], changed.data["labels"]) == (True, "Kept", {"case": "17"})
    refused = await house.ask("DELETE", one)
    assert (refused.status, refused.headers["X-Error-Code"]) == (409, "pinned")
    await house.ask("PATCH", one, {"pinned": False})
    assert (await house.ask("DELETE", one)).status == 204
    assert (await house.ask("GET", one)).status == 404
    assert await told(house) == ["recording.started", "recording.started", "recording.finished", "recording.deleted"]


async def test_one_that_runs_is_stopped_and_then_deleted(house: Any, key: str) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo"})).data["id"]
    assert (await house.ask("DELETE", f"{SOME}/{made}?keepRemote=maybe")).status == 400
    assert (await house.ask("DELETE", f"{SOME}/{made}?keepRemote=true")).status == 204
    async with house.db.read() as tx:
        (deleted,) = await tx.all(schema.audit.select().where(schema.audit.c.action == "recording.deleted"))
    assert deleted["details"]["keepRemote"] is True
    assert [word for word, _ in house.tape.events] == ["start", "stop"]
    assert (await house.ask("GET", SOME)).body["total"] == 0


async def test_one_that_has_just_begun_can_be_pinned(house: Any, key: str) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo"})).data["id"]
    # its row is not written yet
    changed = await house.ask("PATCH", f"{SOME}/{made}", {"pinned": True, "title": "t"})
    assert (changed.status, changed.data["pinned"], changed.data["title"]) == (200, True, "t")


async def test_a_recording_ends_by_itself_after_its_max_duration(house: Any, key: str) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo", "maxDuration": 0.01})).data["id"]
    async with asyncio.timeout(5):
        while house.tape.active:
            await asyncio.sleep(0)
    assert house.tape.events[-1] == ("stop", made)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", SOME, {"room": "nobody"}, 404, "no-programme"),
        ("POST", SOME, {"room": "demo", "identity": "ada"}, 404, "no-such-publisher"),
        ("POST", SOME, {"room": "demo", "maxDuration": -1}, 400, "invalid-request"),
        ("POST", SOME, {"room": "demo", "labels": {"": "x"}}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/other/recordings", {"room": "demo"}, 403, "other-project"),
        ("GET", f"{SOME}/rec_nobody", None, 404, "no-such-recording"),
        ("GET", f"{SOME}?from=yesterday", None, 400, "invalid-request"),
        ("PATCH", f"{SOME}/rec_nobody", {"pinned": True}, 404, "no-such-recording"),
        ("PATCH", f"{SOME}/rec_nobody", {}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/live/rooms/demo/clips", {"before": 11, "after": 1}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/live/rooms/demo/clips", {"before": 1, "from": "2026-03-29T14:30:00Z"}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/live/rooms/demo/clips", {"from": "9", "to": "5"}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/live/rooms/demo/clips", {"from": "0", "to": "7200"}, 400, "invalid-request"),
        ("POST", "/api/v1/projects/live/rooms/demo/clips", {"from": "5", "to": "9"}, 404, "nothing-recorded"),
        ("POST", f"{HUB}/recording/start", {"roomName": "demo", "streamId": "live-other/obs"}, 404, "no-such-stream"),
        ("POST", f"{HUB}/recording/rec_nobody/stop", None, 404, "no-such-recording"),
    ],
)
async def test_what_is_refused(house: Any, key: str, method: str, path: str, body: Any, status: int, code: str) -> None:
    refused = await house.ask(method, path, body)
    assert (refused.status, refused.headers["X-Error-Code"]) == (status, code), refused.body
    assert house.tape.events == []


async def test_length_and_bytes_are_of_what_there_is(house: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo"})).data["id"]
    await house.ledger.write()
    async with house.db.write() as tx:
        found = await recordings.find(tx, made)
        assert found is not None
        for sequence, state in ((1, "gone"), (2, "closed"), (3, "open")):
            start, closed = (sequence - 1) * 10_000_000, state != "open"
            about = {
                "recording_id": made,
                "project_id": found.project_id,
                "sequence": sequence,
                "name": f"{sequence:06}.mp4",
                "state": state,
            }
            size = {"duration": 10_000_000 if closed else 0, "nbytes": 1000 if closed else 100, "init_bytes": 100}
            file = RecordingFile(**about, **size, started_at=found.started_at + 10 * (sequence - 1), start=start)
            await recording_files.put(tx, file)
        await recordings.change(tx, made, duration=20_000_000, nbytes=2000)
    opened = SimpleNamespace(sequence=3, started_at=found.started_at + 20, duration=4_500_000, nbytes=450)
    monkeypatch.setattr(house.tape, "live", lambda ident: opened if ident == made else None)
    told = (await house.ask("GET", f"{SOME}/{made}")).data
    assert (told["duration"], told["bytes"], told["startedAt"]) == (14.5, 1450, clock.iso(found.started_at))
    assert told["availableFrom"] == clock.iso(found.started_at + 10)
    assert [(f["state"], f["duration"], f["bytes"]) for f in told["files"]] == [
        ("gone", 10.0, 1000),
        ("closed", 10.0, 1000),
        ("open", 4.5, 450),
    ]
    (listed,) = (await house.ask("GET", SOME)).body["data"]
    assert listed == {name: value for name, value in told.items() if name in listed}
    assert (await house.ask("GET", f"{HUB}/vods/{made}")).data["size"] == 1450
    (vod,) = (await house.ask("GET", f"{HUB}/vods")).body["data"]
    assert (vod["duration"], vod["size"]) == (14.5, 1450)


async def test_keys_that_only_view_look_and_change_nothing(house: Any, key: str) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo"})).data["id"]
    view = await house.key("view", project="live")
    assert (await house.ask("GET", f"{SOME}/{made}", key=view)).status == 200
    for method, path in (("POST", SOME), ("POST", f"{SOME}/{made}/stop"), ("PATCH", f"{SOME}/{made}"), ("DELETE", f"{SOME}/{made}")):
        assert (await house.ask(method, path, {"room": "demo"} if method == "POST" else None, key=view)).status == 403
    other = await house.key("live", project="other")
    assert (await house.ask("GET", f"/api/v1/projects/other/recordings/{made}", key=other)).status == 404


async def test_by_room_state_and_time(house: Any, key: str) -> None:
    made = (await house.ask("POST", SOME, {"room": "demo"})).data["id"]
    await house.ledger.write()
    now = clock.wallclock()

    async def found(query: str) -> list[str]:
        return [r["id"] for r in (await house.ask("GET", f"{SOME}?{query}")).body["data"]]

    assert await found(f"room=demo&state=recording&reason=api&from={now - 60}&to={now + 60}") == [made]
    assert await found("room=live-demo") == [made]
    for query in ("room=other", "state=finished", "reason=clip", f"to={now - 60}", "offset=1"):
        assert await found(query) == []
    await house.ask("POST", f"{SOME}/{made}/stop")
    assert await found(f"from={now + 60}") == []
    later = clock.iso(now + 3600)
    timeline = (await house.ask("GET", f"/api/v1/projects/live/rooms/demo/timeline?to={later}")).data
    assert [(s["recordingId"], s["gap"], s["here"]) for s in timeline["stretches"]] == [(made, "", True)]


async def test_the_node_s_directories_are_told_to_keys_of_the_node_only(house: Any, tmp_path: Path) -> None:
    await house.places.open()
    of_node = (await house.ask("GET", "/api/v1/recordings/forecast", key=house.admin)).data
    assert [disk["directory"] for disk in of_node["disks"]] == [str(tmp_path / "recordings")]
    own = (await house.ask("GET", f"{SOME}/forecast")).data
    assert [disk["directory"] for disk in own["disks"]] == [None]
    assert (await house.ask("GET", "/api/v1/recordings/forecast")).status == 403


# StreamHub


async def test_streamhub_s_recording_and_vods(house: Any, key: str) -> None:
    begun = await house.ask("POST", f"{HUB}/recording/start", {"roomName": "demo", "streamId": "live-demo/obs"})
    vod = begun.data["vodId"]
    assert (begun.status, begun.body) == (201, {"data": {"vodId": vod, "egressId": vod, "status": "recording"}})
    assert house.tape.events[0][1].identity == "obs"
    stopped = await house.ask("POST", f"{HUB}/recording/{vod}/stop")
    assert (stopped.status, stopped.data["status"]) == (201, "ready")
    listed = await house.ask("GET", f"{HUB}/vods?room=demo&status=ready")
    assert {**listed.body, "data": None} == {"data": None, "total": 1, "limit": 50, "offset": 0}
    found = (await house.ask("GET", f"{HUB}/vods/{vod}")).data
    assert found == listed.data[0]
    assert (found["streamId"], found["duration"], found["size"]) == ("live-demo/obs", 10.0, 3000)
    assert found["playUrl"] == f"https://media.example.com/vod/live/{vod}/index.m3u8"
    assert (await house.ask("DELETE", f"{HUB}/vods/{vod}")).data == {"vodId": vod, "deleted": True}
    assert (await house.ask("GET", f"{HUB}/vods/{vod}")).status == 404


# FastPix


async def test_what_is_left_of_a_live_stream(house: Any) -> None:
    media = await house.asset()
    found = (await house.ask("GET", f"/v1/on-demand/{media}")).data
    assert (found["id"], found["duration"], found["status"], found["sourceResolution"]) == (media, 10.0, "Ready", "720p")
    playback = found["playbackIds"][0]
    assert (playback["accessPolicy"], playback["url"]) == ("public", f"https://media.example.com/{playback['id']}.m3u8")
    # as open as the playback id, also where the project's rooms need tokens
    assert found["thumbnail"] == f"https://media.example.com/vod/{playback['id']}/poster.jpg"
    assert found["downloadUrl"] == f"https://media.example.com/vod/{playback['id']}/download.mp4"
    assert (await house.ask("GET", f"/v1/on-demand/{media}/playback-ids/{playback['id']}")).data == playback
    assert (await house.ask("GET", f"/v1/on-demand/{found['streamId']}/live-clips")).data == [found]
    changed = await house.ask("PATCH", f"/on-demand/{media}", {"metadata": {"name": "launch"}})
    assert changed.data["metadata"] == {"name": "launch"}
    await house.lives.write()
    assert await told(house) == ["recording.started", "recording.finished", "asset.created"]
    assert (await house.ask("DELETE", f"/v1/on-demand/{media}")).body == {"success": True}
    refused = await house.ask("GET", f"/v1/on-demand/{media}")
    assert (refused.status, refused.body["error"]["code"]) == (404, 404)
    assert (await house.ask("GET", "/v1/on-demand")).body["pagination"]["totalRecords"] == 0


async def test_the_recording_of_a_private_live_stream_is_private(house: Any) -> None:
    media = await house.asset("private")
    assert (await house.ask("GET", f"/v1/on-demand/{media}")).data["playbackIds"][0]["accessPolicy"] == "private"


async def test_an_option_that_changes_while_on_air_counts_at_once(house: Any, key: str) -> None:
    made = (await house.ask("GET", f"{HUB}/ingress?room=demo")).data[0]["ingressId"]
    path = f"{HUB}/ingress/{made}"

    async def until(*words: str) -> None:
        async with asyncio.timeout(5):
            while [word for word, _ in house.tape.events] != list(words):
                await asyncio.sleep(0.01)

    async with background(house.recordings.serve()):
        assert (await house.ask("PATCH", path, {"record": True})).data["record"] is True
        await until("start")
        order = house.tape.events[0][1]
        assert (order.reason, order.identity, order.ingress_id) == ("ingress", "obs", made)
        await house.ask("PATCH", path, {"record": True})  # no news
        await house.ask("PATCH", path, {"record": False})
        await until("start", "stop")
        options = "/api/v1/projects/live/rooms/demo/options"
        assert (await house.ask("PUT", options, {"record": True})).data == {"playoutDelay": None, "record": True}
        await until("start", "stop", "start")
        assert (house.tape.events[2][1].reason, house.tape.events[2][1].identity) == ("room", "")
        assert (await house.ask("PUT", options, {"playoutDelay": 0.2})).data == {"playoutDelay": 0.2, "record": True}
        await house.ask("PUT", options, {"record": False})
        await until("start", "stop", "start", "stop")


async def test_an_option_that_cannot_be_followed_is_told_in_the_log(
    house: Any, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = (await house.ask("GET", f"{HUB}/ingress?room=demo")).data[0]["ingressId"]

    def full(order: Any, preroll: float = 0.0) -> None:
        raise LimitExceeded("the node makes 1 recordings already", code="node-full")

    monkeypatch.setattr(house.tape, "start", full)
    async with background(house.recordings.serve()):
        await house.ask("PATCH", f"{HUB}/ingress/{made}", {"record": True})
        await house.ask("PUT", "/api/v1/projects/live/rooms/demo/options", {"record": True})
        async with asyncio.timeout(5):
            while caplog.text.count("the node makes 1 recordings already") < 2:
                await asyncio.sleep(0.01)
    assert f"ingress {made} is not recorded" in caplog.text
    assert "room live-demo is not recorded" in caplog.text


# clips


async def recorded(house: Any, directory: Path, began: float) -> Recording:
    """Three files of ten seconds in room `demo`, with something in them."""
    project = (await house.projects.get("live")).id
    found = Recording(
        id="rec_source",
        project_id=project,
        room="live-demo",
        identity="obs",
        reason="ingress",
        state="finished",
        node_id="node",
        directory=str(directory),
        started_at=began,
        ended_at=began + 30,
        duration=30_000_000,
        nbytes=3000,
    )
    directory.mkdir()
    async with house.db.write() as tx:
        await recordings.insert_recording(tx, found)
        for number in (1, 2, 3):
            name = f"{number:06d}.mp4"
            (directory / name).write_bytes(bytes([number]) * 1000)
            start = (number - 1) * 10_000_000
            file = RecordingFile(
                recording_id=found.id,
                project_id=project,
                sequence=number,
                name=name,
                state="closed",
                started_at=began + start / 1_000_000,
                start=start,
                duration=10_000_000,
                nbytes=1000,
                init_bytes=100,
                parts=pack([Part(100, 900, start, 10_000_000, True)]),
            )
            await recording_files.put(tx, file)
    return found


@pytest.mark.parametrize("links", [True, False])
async def test_a_clip_of_the_past_outlives_what_it_was_cut_from(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    began = 1_774_794_600.0
    await recorded(house, tmp_path / "source", began)
    asked = {"from": clock.iso(began + 12), "to": clock.iso(began + 25), "title": "Door", "pinned": True}
    made = await house.ask("POST", "/api/v1/projects/live/rooms/demo/clips", asked)
    assert (made.status, made.data["state"], made.data["reason"], made.data["identity"]) == (201, "finished", "clip", "obs")
    assert (made.data["duration"], made.data["pinned"], made.data["bytes"]) == (13.0, True, 2000)
    detail = (await house.ask("GET", f"{SOME}/{made.data['id']}")).data
    assert [(f["name"], f["start"]) for f in detail["files"]] == [("000001.mp4", 10.0), ("000002.mp4", 20.0)]
    assert (await house.ask("DELETE", f"{SOME}/rec_source")).status == 204
    assert not (tmp_path / "source").exists()
    directory = tmp_path / "recordings" / "live" / "live-demo" / made.data["id"]
    assert [path.read_bytes() for path in sorted(directory.glob("*.mp4"))] == [b"\2" * 1000, b"\3" * 1000]
    assert await told(house) == ["recording.finished", "recording.deleted"]


async def test_a_clip_whose_files_are_gone_leaves_nothing(house: Any, tmp_path: Path) -> None:
    began = 1_774_794_600.0
    await recorded(house, tmp_path / "source", began)
    (tmp_path / "source" / "000002.mp4").unlink()
    refused = await house.ask("POST", "/api/v1/projects/live/rooms/demo/clips", {"from": str(began + 1), "to": str(began + 25)})
    assert (refused.status, refused.headers["X-Error-Code"]) == (503, "clip-not-made")
    assert list((tmp_path / "recordings").glob("live/*")) == []
    assert (await house.ask("GET", f"{SOME}?reason=clip")).body["total"] == 0


async def test_a_clip_around_now_has_its_preroll_and_ends_by_itself(house: Any, key: str) -> None:
    made = await house.ask("POST", "/api/v1/projects/live/rooms/demo/clips", {"before": 5, "after": 0, "pinned": True})
    assert (made.status, made.data["reason"], made.data["state"]) == (201, "clip", "recording")
    async with asyncio.timeout(5):
        while house.tape.active:
            await asyncio.sleep(0.02)
    await house.ledger.write()
    assert (await house.ask("GET", f"{SOME}/{made.data['id']}")).data["pinned"] is True


async def test_a_clip_that_is_to_be_pinned_is_not_deleted_while_it_runs_until_it_is_unpinned(house: Any, key: str) -> None:
    made = await house.ask("POST", "/api/v1/projects/live/rooms/demo/clips", {"before": 5, "after": 60, "pinned": True})
    one = f"{SOME}/{made.data['id']}"
    refused = await house.ask("DELETE", one)
    assert (refused.status, refused.headers["X-Error-Code"]) == (409, "pinned")
    assert [word for word, _ in house.tape.events] == ["start"], "nor was it stopped"
    await house.ask("PATCH", one, {"pinned": False})
    assert (await house.ask("POST", f"{one}/stop")).data["pinned"] is False
    assert (await house.ask("DELETE", one)).status == 204
