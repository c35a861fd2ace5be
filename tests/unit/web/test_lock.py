"""The scripts that come from npm: pinned, locked by hash, and no registry named."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_each_dependency_is_pinned_to_one_version_and_locked_by_hash() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    wanted = package["dependencies"] | package["devDependencies"]
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert wanted
    for name, version in wanted.items():
        entry = locked[f"node_modules/{name}"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert entry["version"] == version
        assert entry["integrity"].startswith("sha512-")


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert "://" not in lock
    assert "omit-lockfile-registry-resolved=true" in (ROOT / ".npmrc").read_text().splitlines()
