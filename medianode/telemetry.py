"""Logs and counters. Counters are plain integers, read by Prometheus only when it asks: a packet costs one addition."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from medianode import clock


class Cell:
    """One number. Add to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counter:
    """A family of cells by label values. `labels(...)` gives the cell; keep it, and add to its `value`."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.label_names = name, text, labels
        self._cells: dict[tuple[str, ...], Cell] = {}

    def labels(self, *values: str) -> Cell:
        cell = self._cells.get(values)
        if cell is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has labels {self.label_names}, got {values}")
            cell = self._cells[values] = Cell()
        return cell

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name.removesuffix("_total"), self.text, labels=self.label_names)
        for values, cell in tuple(self._cells.items()):
            family.add_metric(values, cell.value)
        return family


Sample = tuple[tuple[str, ...], float]


class Gauge:
    """A family whose values are asked for at scrape time."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        self.name, self.text, self.label_names, self.read = name, text, labels, read

    def family(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.text, labels=self.label_names)
        for values, value in self.read():
            family.add_metric(values, value)
        return family


_families: dict[str, Counter | Gauge] = {}


def counter(name: str, text: str, *labels: str) -> Counter:
    """The counter of this name, made on first use. Raises ValueError where it was made with other labels."""
    found = _families.get(name)
    if found is None:
        found = _families[name] = Counter(name, text, labels)
    if not isinstance(found, Counter) or found.label_names != labels:
        raise ValueError(f"{name} exists already as {type(found).__name__} with labels {found.label_names}, wanted {labels}")
    return found


def gauge(name: str, text: str, *labels: str, read: Callable[[], Iterable[Sample]]) -> None:
    """Set or replace the gauge of this name."""
    _families[name] = Gauge(name, text, labels, read)


class _Collector:
    def collect(self) -> Iterator[Metric]:
        for family in tuple(_families.values()):
            yield family.family()


_registry = CollectorRegistry(auto_describe=False)
_registry.register(_Collector())


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(_registry)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        pairs = "".join(f" {key}={_value(value)}" for key, value in fields.items())
        line = f"{clock.iso(record.created)} {record.levelname:<7} {record.name.removeprefix('medianode.')}: {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        body: dict[str, object] = {"time": clock.iso(record.created), "level": record.levelname.lower(), "logger": record.name}
        body["message"] = record.getMessage()
        body.update(getattr(record, "fields", {}))
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str)


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text


def configure_logs(level: str, form: str, stream: TextIO | None = None) -> None:
    """One handler on the root logger. `form`: text or json."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiosqlite", "alembic", "asyncio", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def session(log: logging.Logger, event: str, **fields: object) -> None:
    """One line of a session's life: opened, publishing, playing, closed."""
    log.info(event, extra={"fields": fields})


class Sparingly:
    """An event of which strangers make as many as they like: one line a second at most, and in it how many went untold before."""

    def __init__(self, log: logging.Logger, event: str) -> None:
        self._log, self._event = log, event
        self._told_at = float("-inf")
        self._untold = 0

    def tell(self, **fields: object) -> None:
        now = clock.now()
        if now - self._told_at < 1.0:
            self._untold += 1
            return
        session(self._log, self._event, **fields, untold=self._untold)
        self._told_at, self._untold = now, 0
