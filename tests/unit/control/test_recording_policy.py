"""Retention and upload as a project says them."""

from __future__ import annotations

from typing import Any

import pytest

from medianode.control.projects import Projects
from medianode.control.recording_policy import RecordingPolicy, merged_policy, policy_of
from medianode.errors import InvalidRequest
from medianode.events import Bus
from medianode.store import audit
from medianode.store.database import Database


@pytest.mark.parametrize(
    "bad",
    [
        {"maxAge": 0},
        {"maxAge": "1"},
        {"maxAge": True},
        {"maxAge": float("nan")},
        {"maxBytes": 1},
        {"maxBytes": 1e9},
        {"minKeep": -1},
        {"upload": 1},
        {"keep": 1},
        {"maxAge": 10, "minKeep": 11},
        {"upload": False, "deleteAfterUpload": True},
    ],
)
def test_what_does_not_hold_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="recording"):
        merged_policy({}, bad)


def test_a_change_is_laid_over_what_stood() -> None:
    assert merged_policy({"maxAge": 60, "upload": False}, {"maxAge": None, "minKeep": 5}) == {"upload": False, "minKeep": 5}
    assert merged_policy({"maxAge": 60}, {"maxAge": None}) is None
    assert merged_policy({"maxAge": 60}, None) is None


async def test_a_policy_is_kept_audited_and_comes_to_what_holds(database: Database) -> None:
    projects = Projects(database, Bus())
    project = await projects.create("garage", limits={"disk": 10**9}, recording={"maxAge": 3600, "maxBytes": 2 * 10**9})
    assert policy_of(project) == RecordingPolicy(max_age=3600, max_bytes=10**9)
    project = await projects.change("garage", recording={"maxBytes": 10**8, "deleteAfterUpload": True})
    assert policy_of(project) == RecordingPolicy(max_age=3600, max_bytes=10**8), "there is no bucket to upload to"
    bucket = {"type": "s3", "bucket": "media", "accessKey": "a", "secretKey": "s"}
    project = await projects.change("garage", storage=bucket)
    assert policy_of(project) == RecordingPolicy(max_age=3600, max_bytes=10**8, upload=True, delete_after_upload=True)
    assert (await projects.get("garage")).recording == {"maxAge": 3600, "maxBytes": 10**8, "deleteAfterUpload": True}
    async with database.read() as tx:
        entries = await audit.before(tx, 10, action="project.changed")
    assert entries[1].details["recording"] == {"maxAge": 3600, "maxBytes": 10**8, "deleteAfterUpload": True}
    assert policy_of(await projects.change("garage", recording=None)).max_age == 0
