"""What `medianode doctor` says of the disks that recordings go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from medianode import doctor
from medianode.config import Config, Recording


def findings(data_dir: Path, own: dict[Path, str], **recording: object) -> list[tuple[str, str, str]]:
    config = Config(data_dir=str(data_dir), recording=Recording(**recording))  # type: ignore[arg-type]
    return [(found.level, found.text, found.advice) for found in doctor._recording_disks(config, own)]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_speed", lambda root: (100e6, 0.001))


def test_below_the_data_directory_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert findings(tmp_path, {}) == []


def test_each_directory_with_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "own").mkdir()
    found = findings(tmp_path, {tmp_path / "own": "project garage"}, directory=str(tmp_path / "disk"), min_free=0)
    assert [level for level, _, _ in found] == ["ok", "ok"]
    assert f"{tmp_path}/disk (recording.directory)" in found[0][1]
    assert f"{tmp_path}/own (project garage)" in found[1][1]


def test_one_that_is_not_there_may_be_an_unmounted_disk(tmp_path: Path) -> None:
    ((level, text, advice),) = findings(tmp_path, {}, directory=str(tmp_path / "disk"))
    assert (level, "not there yet" in text, "mounted?" in advice) == ("warn", True, True)
    assert not (tmp_path / "disk").exists()


def test_one_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = doctor.disk.Space(tmp_path, 1, free=1_000_000, total=100_000_000)
    monkeypatch.setattr(doctor.disk, "measure", lambda root: space)
    ((level, _, advice),) = findings(tmp_path / "data", {}, directory=str(tmp_path))
    assert (level, "0.0 GB are to stay free" in advice) == ("warn", True), "a quarter of so small a disk at most"


def test_one_that_is_slow_and_one_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_speed", lambda root: (1e6, 0.5))
    ((level, _, advice),) = findings(tmp_path / "data", {}, directory=str(tmp_path), min_free=0)
    assert (level, advice.startswith("slow")) == ("warn", True)

    def refused(root: Path) -> tuple[float, float]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "_speed", refused)
    ((level, text, advice),) = findings(tmp_path / "data", {}, directory=str(tmp_path), min_free=0)
    assert (level, "Permission denied" in text, "ReadWritePaths=" in advice) == ("fail", True, True)
