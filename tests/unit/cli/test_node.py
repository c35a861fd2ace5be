from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medianode.cli.node import greeting, into_journal
from medianode.config import Config


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        found = os.fstat(out.fileno())
        assert into_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, out.fileno())
        assert not into_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, out.fileno())
        assert not into_journal({}, out.fileno())


@pytest.mark.parametrize("srt_port", [0, 8890])
def test_keys_are_greeted_with_but_not_into_the_journal(tmp_path: Path, srt_port: int) -> None:
    first = SimpleNamespace(
        project=SimpleNamespace(slug="live"),
        ingress=SimpleNamespace(room="live-studio", stream_key="str3amkey"),
        admin_key="sk_adm1n",
        admin_key_file=tmp_path / "admin.key",
    )
    ready: Any = SimpleNamespace(http_port=8080, rtmp_port=1935, srt_port=srt_port, data_dir=tmp_path, first=first)
    shown, hidden = (greeting(Config(), ready, show=show) for show in (True, False))
    assert "rtmp://localhost:1935/live/str3amkey" in shown
    assert ("srt://localhost:8890?streamid=str3amkey" in shown) == bool(srt_port)
    assert "sk_adm1n" in shown
    for secret in ("str3amkey", "sk_adm1n"):
        assert secret not in hidden
    assert str(first.admin_key_file) in hidden
    assert ("srt://localhost:8890?streamid=STREAM_KEY" in hidden) == bool(srt_port)
