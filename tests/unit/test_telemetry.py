"""Counters, gauges and log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from medianode import clock, telemetry


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """No other family than those the test makes."""
    mine: dict[str, object] = {}
    monkeypatch.setattr(telemetry, "_families", mine)
    return mine


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = {name: logging.getLogger(name).level for name in ("aiosqlite", "alembic", "asyncio", "sqlalchemy")}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in noisy.items():
        logging.getLogger(name).setLevel(old)


@pytest.mark.usefixtures("families")
def test_cells_are_kept_and_shown() -> None:
    counter = telemetry.counter("t_bytes_total", "Bytes", "door")
    cell = counter.labels("rtmp")
    cell.value += 5
    counter.labels("rtmp").value += 2
    counter.labels("hls").value += 1
    assert telemetry.counter("t_bytes_total", "Bytes", "door") is counter
    assert telemetry.exposition().decode().splitlines() == [
        "# HELP t_bytes_total Bytes",
        "# TYPE t_bytes_total counter",
        't_bytes_total{door="rtmp"} 7.0',
        't_bytes_total{door="hls"} 1.0',
    ]


@pytest.mark.usefixtures("families")
def test_gauges_are_asked_when_read() -> None:
    values = [1.0]
    telemetry.gauge("t_fill", "Fill", read=lambda: [((), values[0])])
    assert b"\nt_fill 1.0\n" in telemetry.exposition()
    values[0] = 2.5
    assert b"\nt_fill 2.5\n" in telemetry.exposition()
    telemetry.gauge("t_fill", "Fill", "room", read=lambda: [(('a"b\\c\n',), 3)])
    assert b'\nt_fill{room="a\\"b\\\\c\\n"} 3.0\n' in telemetry.exposition()


@pytest.mark.usefixtures("families")
def test_one_name_one_meaning() -> None:
    telemetry.counter("t_x_total", "X", "a")
    with pytest.raises(ValueError, match="labels"):
        telemetry.counter("t_x_total", "X", "b")
    telemetry.gauge("t_y", "Y", read=list)
    with pytest.raises(ValueError, match="Gauge"):
        telemetry.counter("t_y", "Y")
    with pytest.raises(ValueError, match="labels"):
        telemetry.counter("t_x_total", "X", "a").labels("1", "2")


def logger() -> logging.Logger:
    return logging.getLogger("medianode.t")


def test_a_text_line_has_its_fields_quoted_where_needed(logs: io.StringIO) -> None:
    telemetry.configure_logs("info", "text", logs)
    telemetry.session(logger(), "closed", peer="192.0.2.1", reason="", said='a "b"', seconds=1.23456, two="x\ny", count=3)
    line = logs.getvalue()
    assert line.count("\n") == 1, "a stranger's line break does not make a line of log"
    stamp, _, rest = line.partition(" ")
    assert stamp.endswith("Z")
    assert rest == 'INFO    t: closed peer=192.0.2.1 reason="" said="a \\"b\\"" seconds=1.235 two="x\\ny" count=3\n'


def test_a_json_line_is_json(logs: io.StringIO) -> None:
    telemetry.configure_logs("info", "json", logs)
    telemetry.session(logger(), "opened", peer="x\ny", n=1)
    try:
        raise ValueError("v")
    except ValueError:
        logger().exception("failed")
    first, second = (json.loads(line) for line in logs.getvalue().splitlines())
    assert first | {"time": ""} == {"time": "", "level": "info", "logger": "medianode.t", "message": "opened", "peer": "x\ny", "n": 1}
    assert "ValueError: v" in second["traceback"]


def test_what_strangers_make_is_told_once_a_second_and_the_rest_counted(logs: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry.configure_logs("info", "text", logs)
    refused = telemetry.Sparingly(logger(), "refused")
    for now in (5.0, 5.5, 5.9, 6.0, 7.5):
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        refused.tell(peer=now)
    assert [line.partition("refused ")[2] for line in logs.getvalue().splitlines()] == [
        "peer=5.000 untold=0",
        "peer=6.000 untold=2",
        "peer=7.500 untold=0",
    ]


def test_levels_and_handlers(logs: io.StringIO) -> None:
    telemetry.configure_logs("warning", "text", logs)
    telemetry.configure_logs("warning", "text", logs)
    logger().info("not told")
    logger().warning("told once")
    assert logs.getvalue().count("told") == 1
    telemetry.configure_logs("debug", "text", logs)
    assert logging.getLogger("sqlalchemy").level == logging.WARNING
    logger().debug("deep")
    assert "DEBUG" in logs.getvalue()


def test_a_traceback_follows_its_line(logs: io.StringIO) -> None:
    telemetry.configure_logs("info", "text", logs)
    try:
        raise ValueError("v")
    except ValueError:
        logger().exception("failed")
    assert logs.getvalue().splitlines()[1] == "Traceback (most recent call last):"
