"""How long the disk lasts for recordings, and what goes first."""

from __future__ import annotations

from typing import Any

import msgspec

from medianode import clock
from medianode.api.desk import Desk
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.forecast import Forecast, Forecasts
from medianode.errors import Forbidden


class DiskView(msgspec.Struct, rename="camel"):
    """`directory` with a key to the whole node only. `wanted`: bytes that are to stay free. `state`: `ok`, `low` (the oldest go for new
    ones), `full` (nothing may go). `secondsLeft`: until files go for want of room; null: nothing is being written.
    """

    directory: str | None
    free: int
    total: int
    wanted: int
    write_rate: float
    state: str
    seconds_left: float | None


class NextView(msgspec.Struct, rename="camel"):
    recording_id: str
    room: str
    name: str
    started_at: str
    bytes: int


class ForecastView(msgspec.Struct, rename="camel"):
    """Of what is on this node's disk. `writeRate`: bytes a second, a mean of minutes. `maxBytes`, `maxAge` (seconds): what holds, null for
    none (of the node: its own; what projects have of their own counts in `secondsLeft`). `secondsLeft`: until the first file goes, 0 where
    files are going, null where none will as things are; `cause`: `age`, `bytes` or `space`. `next`: the oldest.
    """

    files: int
    bytes: int
    max_bytes: int | None
    max_age: float | None
    write_rate: float
    oldest: str | None
    seconds_left: float | None
    cause: str
    disks: list[DiskView]
    next: list[NextView]


class ForecastApi:
    def __init__(self, desk: Desk, forecasts: Forecasts) -> None:
        self._desk = desk
        self._forecasts = forecasts

    @property
    def routes(self) -> list[AnyRoute]:
        """Before those of single recordings: `forecast` is no recording's id."""
        common: dict[str, Any] = {
            "method": "GET",
            "dialect": OPERATOR,
            "tag": "Recordings",
            "auth": Permission.LIVE,
            "response": Data[ForecastView],
            "example": Data(_EXAMPLE),
        }
        return [
            Route(
                path="/api/v1/recordings/forecast",
                handler=self.of_node,
                summary="How long the disks last for recordings, and what goes first: of the node",
                **common,
            ),
            Route(
                path="/api/v1/projects/{project}/recordings/forecast",
                handler=self.of_project,
                summary="How long recordings of a project stay, and what goes first",
                **common,
            ),
        ]

    async def of_node(self, call: Call[Principal, Empty, Empty]) -> Data[ForecastView]:
        if not call.who.node:
            raise Forbidden("the node's disks are shown to a key to the whole node; ask for your project's forecast")
        return Data(forecast_view(await self._forecasts.of_node(), node=True))

    async def of_project(self, call: Call[Principal, Empty, Empty]) -> Data[ForecastView]:
        project = await self._desk.project(call)
        return Data(forecast_view(await self._forecasts.of_project(project), node=call.who.node))


def forecast_view(forecast: Forecast, *, node: bool) -> ForecastView:
    return ForecastView(
        files=forecast.files,
        bytes=forecast.nbytes,
        max_bytes=forecast.max_bytes or None,
        max_age=forecast.max_age or None,
        write_rate=round(forecast.write_rate, 1),
        oldest=instant(forecast.oldest),
        seconds_left=_rounded(forecast.seconds_left),
        cause=forecast.cause,
        disks=[
            DiskView(
                directory=str(disk.root) if node else None,
                free=disk.free,
                total=disk.total,
                wanted=disk.wanted,
                write_rate=round(disk.write_rate, 1),
                state=disk.state,
                seconds_left=_rounded(disk.seconds_left),
            )
            for disk in forecast.disks
        ],
        next=[NextView(file.recording_id, file.room, file.name, clock.iso(file.started_at), file.nbytes) for file in forecast.next],
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


_EXAMPLE = ForecastView(
    files=1440,
    bytes=27_000_000_000,
    max_bytes=None,
    max_age=2_592_000.0,
    write_rate=312_500.0,
    oldest="2026-03-28T14:30:00.000Z",
    seconds_left=86_400.0,
    cause="space",
    disks=[DiskView("/var/lib/medianode/recordings", 29_147_483_648, 64_000_000_000, 2_147_483_648, 312_500.0, "ok", 86_400.0)],
    next=[NextView("rec_0123456789abcdefghij", "garage-door", "000001.mp4", "2026-03-28T14:30:00.000Z", 18_750_000)],
)
