"""The daemon's complaint, which starves systemd's watchdog."""

from __future__ import annotations

from pathlib import Path

import pytest

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.config import Config
from medianode.daemon import Daemon


@pytest.mark.parametrize(("silent", "complains"), [(20.0, False), (34.0, False), (60.0, True)])
def test_cameras_that_are_silent_for_less_than_their_door_allows_are_no_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: float, complains: bool
) -> None:
    config = Config(data_dir=str(tmp_path))
    daemon = Daemon(config)
    for name in ("one", "two"):
        grant = PublishGrant(
            project_id="p", slug="live", room="live-a", identity=name, name="", kind=Door.WS_MJPEG, ingress_id=name,
            takeover=Takeover.REPLACE, hold=0.0,
        )  # fmt: skip
        _, publication = daemon.registry.publish(grant, "ws-mjpeg", "192.0.2.1", lambda error: None)
        publication.active_at = publication.last_packet_at = clock.now()
    daemon.health.lag.turned_at = clock.now() + silent
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + silent)
    assert bool(daemon.health.complaint()) is complains
