"""A fan-out with its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from harness.fanout import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.close()
