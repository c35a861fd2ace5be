"""The media plane of the node under test, for faults that only the inside can bring about."""

from __future__ import annotations

from typing import Any

import pytest

from medianode import daemon


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch) -> list[daemon.WebRtc]:
    """The WebRtc of each node that the test starts, oldest first."""
    made: list[daemon.WebRtc] = []

    class Kept(daemon.WebRtc):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(daemon, "WebRtc", Kept)
    return made
