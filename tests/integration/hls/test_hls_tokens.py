"""Long tokens: what a stranger writes into one query is not multiplied into megabytes."""

from __future__ import annotations

from typing import Any

import pytest

from medianode import origin


async def test_a_token_longer_than_any_is_refused_and_long_ones_are_not_remembered(
    make_rig: Any, make_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "TOKEN_LENGTH", 6000)  # the test server's own bound on a request line is 8190
    rig = await make_rig()
    clip = make_clip("h264", "aac")
    _, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    for _ in range(3):
        async with rig.client.get("/hls/live/cam/main.m3u8", params={"token": "x" * origin.TOKEN_LENGTH}) as response:
            assert response.status == 200
    assert not rig.service._verdicts
    async with rig.client.get("/hls/live/cam/main.m3u8", params={"token": "x" * (origin.TOKEN_LENGTH + 1)}) as response:
        assert response.status == 400
    async with rig.client.get("/hls/live/cam/main.m3u8") as response:
        assert response.status == 200
    assert len(rig.service._verdicts) == 1
