from __future__ import annotations

import os
from pathlib import Path

from medianode.cli.node import into_journal


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        found = os.fstat(out.fileno())
        assert into_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, out.fileno())
        assert not into_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, out.fileno())
        assert not into_journal({}, out.fileno())
