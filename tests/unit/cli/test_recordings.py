"""medianode recordings: list, forecast, rebuild, where no daemon runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from harness.recorded import Studio

from medianode.cli import main
from medianode.config import Recording as Settings
from medianode.control.nodes import open_node_id
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store import recordings
from medianode.store.database import open_database


async def _record(data_dir: Path) -> str:
    """Two files, whose rows are then lost."""
    async with open_database("", data_dir, environ={}) as db:
        project = await Projects(db, Bus()).create("garage")
        studio = Studio(db, data_dir / "recordings", Settings(), node_id=open_node_id(data_dir))
        film = await studio.recorded(project, "garage-door", 1_700_000_000.0, 15)
        async with db.write() as tx:
            await recordings.remove(tx, film.order.recording_id)
    return film.order.recording_id


def test_a_lost_index_is_rebuilt_listed_and_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIANODE__DATA_DIR", str(tmp_path))
    recording = asyncio.run(_record(tmp_path))
    assert main(["recordings", "list"]) == 0
    assert recording not in capsys.readouterr().out
    assert main(["recordings", "rebuild"]) == 0
    assert f"{tmp_path}/recordings: 1 recordings, 2 adopted, 0 forgotten, 0 broken, 0 foreign" in capsys.readouterr().out
    assert main(["recordings", "rebuild", "--directory", f"{tmp_path}/typo"]) != 0
    assert not (tmp_path / "typo").exists()
    assert "typo" in capsys.readouterr().err
    assert main(["recordings", "list", "--project", "garage", "--room", "door"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == [recording, "2023-11-14T22:13:20Z", "15.0", shown[1].split()[3], "finished", "garage-door"]
    assert main(["recordings", "list", "--room", "garage-door"]) == 0
    assert capsys.readouterr().out.splitlines() == shown
    assert main(["recordings", "list", "--room", "door"]) != 0
    assert "--room door: expected --project with it, or the room's full name" in capsys.readouterr().err
    assert main(["recordings", "forecast", "--project", "garage"]) == 0
    told = capsys.readouterr()
    forecast = msgspec.json.decode(told.out)
    assert (forecast["files"], forecast["next"][0]["name"], forecast["secondsLeft"]) == (2, "000001.mp4", None)
    assert (forecast["writeRate"], forecast["disks"][0]["writeRate"]) == (None, None)
    assert "GET /api/v1/projects/garage/recordings/forecast on " in told.err
    asyncio.run(_keep(tmp_path, 100 * 366 * 86_400.0))
    assert main(["recordings", "forecast"]) == 0
    forecast = msgspec.json.decode(capsys.readouterr().out)
    assert (forecast["maxAge"], forecast["cause"]) == (None, "age"), "a project's own counts for the node"
    assert forecast["secondsLeft"] > 86_400


async def _keep(data_dir: Path, seconds: float) -> None:
    async with open_database("", data_dir, environ={}) as db:
        await Projects(db, Bus()).change("garage", recording={"maxAge": seconds})


def test_a_list_that_nobody_reads_to_its_end_is_no_failure(tmp_path: Path) -> None:
    asyncio.run(_prepare(tmp_path))
    reader, writer = os.pipe()
    os.close(reader)
    command = (sys.executable, "-m", "medianode", "recordings", "list")
    environment = {**os.environ, "MEDIANODE__DATA_DIR": str(tmp_path)}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


async def _prepare(data_dir: Path) -> None:
    async with open_database("", data_dir, environ={}) as db:
        await Projects(db, Bus()).create("garage")
