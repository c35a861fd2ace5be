"""What is left of a live stream: named in the transaction of its recording's end, as open as the stream was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medianode.control.assets import Assets
from medianode.control.live_streams import LiveStreams, Policy
from medianode.errors import NotFound
from medianode.store import outbox, recordings
from medianode.store.projects import Project
from medianode.store.recordings import Recording


@pytest.fixture
async def project(house: Any) -> Project:
    made: Project = await house.projects.create("live")
    return made


@pytest.fixture
def streams(house: Any) -> LiveStreams:
    return LiveStreams(house.db, house.bus, house.ingresses, playback_ids=10)


def recording_of(project: Project, ingress_id: str | None, **changed: Any) -> Recording:
    about = Recording(
        id="rec_1",
        project_id=project.id,
        room="live-a",
        identity="a",
        ingress_id=ingress_id,
        reason="ingress",
        state="finished",
        node_id="n",
        directory="/nowhere",
        started_at=100.0,
        ended_at=110.0,
        duration=10_000_000,
        nbytes=5000,
    )
    return replace(about, **changed)


async def ended(house: Any, recording: Recording) -> list[str]:
    """The facts that its end has told."""
    async with house.db.write() as tx:
        newest = await outbox.newest(tx)
        await recordings.insert_recording(tx, recording)
        await Assets(house.db).on_end(tx, recording)
    async with house.db.read() as tx:
        return [event.type for event in await outbox.after(tx, newest, 10)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(), "public"),
        (Policy(access_policy="private"), "private"),
        (Policy(media_policy="private"), "private"),
        (Policy(restrictions={"domains": {"defaultPolicy": "deny", "allow": ["a.example"], "deny": []}}), "private"),
    ],
)
async def test_it_is_as_open_as_its_live_stream(house: Any, project: Project, streams: LiveStreams, policy: Policy, expected: str) -> None:
    stream = (await streams.create(project, policy)).ingress.id
    assert await ended(house, recording_of(project, stream)) == ["asset.created"]
    (found,), total = await Assets(house.db).list(project.id, ingress_id=stream)
    assert (total, found.access_policy) == (1, expected)
    assert found.media_id is not None
    assert (await Assets(house.db).ids_of((stream, "other"))) == {stream: [found.media_id]}
    assert await Assets(house.db).get(project.id, found.media_id) == found
    with pytest.raises(NotFound):
        await Assets(house.db).get("prj_other", found.media_id)


async def test_what_is_no_asset(house: Any, project: Project, streams: LiveStreams) -> None:
    stream = (await streams.create(project, Policy())).ingress.id
    for number, recording in enumerate(
        (
            recording_of(project, None),
            recording_of(project, "IN_abc"),
            recording_of(project, stream, reason="api"),
            recording_of(project, stream, nbytes=0),
            recording_of(project, stream, media_id="known already"),
        )
    ):
        assert await ended(house, replace(recording, id=f"rec_{number}")) == []


async def test_one_whose_live_stream_is_gone_is_private_and_told_to_nobody(house: Any, project: Project, streams: LiveStreams) -> None:
    stream = (await streams.create(project, Policy())).ingress.id
    await streams.delete(project.id, stream)
    assert await ended(house, recording_of(project, stream)) == []
    (found,), _ = await Assets(house.db).list(project.id)
    assert found.access_policy == "private"
