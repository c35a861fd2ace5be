"""Clips, made once for each module."""

from __future__ import annotations

import pytest
from harness.derived import Clip, clips


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return clips(tmp_path_factory.mktemp("clips"))
