from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medianode.auth import FailedLogins
from medianode.control.broadcasts import Broadcasts
from medianode.control.gatekeeper import HouseGatekeeper
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.links import Links
from medianode.control.projects import Projects
from medianode.events import Bus, Event
from medianode.store.database import Database, open_database


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Migrated, on SQLite and on PostgreSQL."""
    async with open_database(database_url, tmp_path, environ={}) as db:
        yield db


@dataclass
class House:
    """The use cases over one database, as the daemon wires them; `told` is what the bus carried."""

    db: Database
    failures: int = 5
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus = Bus()
        self.bus.subscribe(Event, self.told.append)
        self.projects = Projects(self.db, self.bus)
        self.keys = Keys(self.db, self.bus)
        self.ingresses = Ingresses(self.db, self.bus, rooms=20)
        self.broadcasts = Broadcasts(self.db, self.bus)
        self.links = Links(self.db, self.bus, most=50)
        failed = FailedLogins(self.failures)
        self.gate = HouseGatekeeper(self.projects, self.keys, self.ingresses, self.broadcasts, self.links, failed, self.db, hold=15.0)


@pytest.fixture
def house(database: Database) -> House:
    return House(database)


class Clock:
    """Stands in for medianode.clock: time passes when a test says so."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = 1_800_000_000.0

    def now(self) -> float:
        return self.monotonic

    def wallclock(self) -> float:
        return self.wall

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("medianode.clock.now", clock.now)
    monkeypatch.setattr("medianode.clock.wallclock", clock.wallclock)
    return clock
