"""From when to when a clip is, as it is said."""

from __future__ import annotations

import pytest

from medianode.api.clips import ClipsApi, NewClip
from medianode.api.fields import build
from medianode.errors import InvalidRequest
from medianode.store.projects import Project

GARAGE = Project(id="p", slug="garage", name="", jwt_key_id="k", jwt_secret="s", viewing="public", open_publish=False, created_at=0.0)


class Clips:
    async def began(self, project_id: str, recording_id: str) -> float:
        assert (project_id, recording_id) == ("p", "rec_1")
        return 1_700_000_000.0


async def edges(body: dict[str, object]) -> list[float | None]:
    new, api = build(body, NewClip, unknown="all"), ClipsApi(None, Clips())  # type: ignore[arg-type]
    return [await api._edge(GARAGE, new, name, edge) for name, edge in (("from", new.since), ("to", new.until))]


async def test_numbers_texts_and_seconds_of_a_recording() -> None:
    assert await edges({"from": 1_700_000_005, "to": 1_700_000_009.5}) == [1_700_000_005.0, 1_700_000_009.5]
    assert await edges({"from": "1700000005", "to": "2023-11-14T22:13:30Z"}) == [1_700_000_005.0, 1_700_000_010.0]
    assert await edges({"from": "+5", "to": "+9.5", "recordingId": "rec_1"}) == [1_700_000_005.0, 1_700_000_009.5]
    assert await edges({"before": 1}) == [None, None]


async def test_what_is_wrong_is_said() -> None:
    with pytest.raises(InvalidRequest, match=r"from: expected a recordingId, from whose beginning \+5 counts"):
        await edges({"from": "+5", "to": "+9"})
    with pytest.raises(InvalidRequest, match="or seconds since 1970 or these as a number, got true"):
        await edges({"from": True, "to": 5})
    with pytest.raises(InvalidRequest, match="from: expected an instant"):
        await edges({"from": "+5x", "to": 9, "recordingId": "rec_1"})
    with pytest.raises(InvalidRequest, match="from: expected"):
        await edges({"from": -1, "to": 9})
