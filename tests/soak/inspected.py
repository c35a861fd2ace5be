"""The daemon with one route more: `GET /leftovers` counts what must be gone once nobody publishes or watches. Run as `medianode`."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from types import FrameType
from typing import Any

from aiohttp import web

from medianode import cli, daemon
from medianode.config import Config
from medianode.egress import rtmp_play
from medianode.egress.hls import service as hls
from medianode.egress.push.service import PushService
from medianode.egress.whep.lane import Lane
from medianode.egress.whep.layers import Stay
from medianode.egress.whep.service import Watcher
from medianode.health import Health
from medianode.ingress.assembler import Assembler
from medianode.ingress.whip.session import WhipSession
from medianode.ingress.whip.streams import Incoming
from medianode.media.packet import Packet
from medianode.routing.publication import Publication
from medianode.routing.room import Room
from medianode.rtc.channel import Channel, Layout
from medianode.rtc.dtls import Session, Wire
from medianode.rtc.fanout import Broadcast
from medianode.rtc.flow import Flow
from medianode.rtc.outgoing import Outgoing
from medianode.rtc.peer import Peer
from medianode.rtc.rows import Row
from medianode.rtc.srtp import Opener, Sealer
from medianode.rtc.tcp import TcpStream
from medianode.rtc.viewer import Viewer
from medianode.transcode.renditions import Rendition, Renditions

PASSING = (
    *(Peer, Session, Wire, Opener, Sealer, TcpStream),
    *(Lane, Stay, Watcher, Viewer, Flow, Broadcast, Channel, Layout, Row, Outgoing),
    *(rtmp_play.Broadcast, rtmp_play.RtmpPlayer),
    *(WhipSession, Incoming, Assembler, Publication, Room, Rendition, Packet),
)
"""Of these nothing may be alive, found by whatever reference."""


def held(webrtc: Any, renditions: Renditions, registry: Any) -> dict[str, int]:
    """What the long-lived objects keep, by name."""
    endpoint, signalling, whep, whip = webrtc._endpoint, webrtc._signalling, webrtc.whep, webrtc.whip
    batch, layers = whep._batch, whep._layers
    wheel = batch.wheel
    return {
        "endpoint peers": len(endpoint),
        "endpoint by ufrag": len(endpoint._by_ufrag),
        "endpoint by address": len(endpoint._by_address),
        "endpoint TCP streams": len(endpoint._streams),
        "endpoint gate": endpoint._gate.total + len(endpoint._gate._peers),
        "endpoint handshakes": len(endpoint.tasks),
        "signalling resources": len(signalling),
        "whep watchers": len(whep.watchers),
        "whep lanes": len(whep.lanes),
        "whep by viewer": len(whep._by_viewer),
        "whep tasks": len(whep._tasks),
        "layers": len(layers._stays) + len(layers._moving) + len(layers._since),
        "batch queue": len(batch._queue) + batch.unsent + batch._writing,
        "wheel": wheel._members + len(wheel._paced) + sum(map(len, wheel._slots)),
        "wheel timers": (wheel._timer is not None) + (wheel._tick is not None),
        "whip sessions": len(whip.sessions),
        "whip timer": whip._timer is not None,
        "renditions": len(renditions) + renditions.threads,
        "rooms": len(registry),
        "publications": len(registry.publications),
    }


def alive() -> dict[str, str]:
    """Objects of the passing kinds after a full collection: how many, and who holds them."""
    gc.collect()
    found: dict[str, list[object]] = {}
    for one in gc.get_objects():
        if type(one) in PASSING:
            found.setdefault(f"live {type(one).__name__}", []).append(one)
    return {name: f"{len(those)}, held by {holders(those)}" for name, those in found.items()}


def holders(those: list[object]) -> str:
    """Kinds of objects that refer to them, and the names of coroutines whose variables do."""
    referrers = (r for r in gc.get_referrers(*those) if r is not those and not isinstance(r, FrameType))
    names = Counter(
        getattr(r, "__qualname__", "") or (str(sorted(r, key=str))[:200] if isinstance(r, dict) else type(r).__name__) for r in referrers
    )
    return ", ".join(f"{name} ({n})" for name, n in names.most_common(10))


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def heap() -> int:
    """Bytes that are allocated from glibc (2.33), native libraries' included; its free lists, the peak of all that was, are given back."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    found = libc.mallinfo2()
    libc.malloc_trim(0)
    return int(found.uordblks + found.hblkhd)


class InspectedHealth(Health):
    _renditions: Renditions
    daemon: daemon.Daemon

    def register_metrics(self, renditions: Renditions, pushing: PushService) -> None:
        self._renditions = renditions
        super().register_metrics(renditions, pushing)

    def routes(self) -> list[web.RouteDef]:
        return [*super().routes(), web.get("/leftovers", self._leftovers)]

    async def _leftovers(self, request: web.Request) -> web.Response:
        kept = {name: int(n) for name, n in held(self.daemon.webrtc, self._renditions, self.daemon.registry).items() if n}
        return web.json_response({"left": kept | alive(), "heap": heap()})


class Inspected(daemon.Daemon):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.health = inspected = InspectedHealth(config, self.registry, self._origin)
        inspected.daemon = self


if __name__ == "__main__":
    hls.LINGER = 5.0  # playlists that have ended; the test waits for the last of them, twice
    daemon.Daemon = Inspected  # type: ignore[misc]  # where `serve` looks it up
    sys.exit(cli.main())
