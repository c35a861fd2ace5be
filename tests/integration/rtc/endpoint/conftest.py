"""An endpoint that serves, and ticks quickly."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from harness.endpoint import make
from harness.webrtc import serving

from medianode.rtc import endpoint as endpoint_module
from medianode.rtc.endpoint import Endpoint


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "TICK", 0.02)


@pytest.fixture
async def node() -> AsyncIterator[Endpoint]:
    async with serving(make()) as endpoint:
        yield endpoint
