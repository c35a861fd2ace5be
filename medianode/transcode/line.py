"""Line: one thread of a rendition, for one kind, with its mailbox and the epoch of what it makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from medianode import config
from medianode.media.packet import Packet
from medianode.media.track import Kind
from medianode.transcode.derive import Output, Settings, Tally
from medianode.transcode.mailbox import Mailbox, Order, Restart
from medianode.transcode.pipeline import Pipeline

MAX_AGE = 1.0
"""Seconds that pictures for WebRTC, or for all readers of a room, may wait when a newer key frame waits behind them."""


class Line:
    """Runs from construction until `close`. `deliver(line, epoch, outputs)` and `ended(line, error)` are called in the loop.

    `whole_gop`: it begins anywhere in a GOP, for readers with a buffer, and must not fall behind for others' sake either.
    """

    def __init__(
        self,
        kind: Kind,
        limits: config.Limits,
        settings: Settings,
        tally: Tally,
        deliver: Callable[[Line, int, list[Output]], None],
        ended: Callable[[Line, Exception | None], None],
        *,
        realtime: bool,
        whole_gop: bool = False,
    ) -> None:
        self.kind = kind
        self.epoch = 0
        # a viewer who comes late in a long GOP needs it whole; MAX_AGE keeps a live backlog short all the same
        live = realtime or whole_gop
        packets = limits.gop_packets if live else limits.rendition_queue_packets
        soon = asyncio.get_running_loop().call_soon
        self.mailbox = Mailbox(packets, limits.reader_bytes, MAX_AGE if live else None, soon)
        self.pipeline = Pipeline(
            self.mailbox,
            settings,
            tally,
            lambda epoch, outputs: deliver(self, epoch, outputs),
            lambda error: ended(self, error),
            realtime=realtime,
        )
        self.pipeline.start()

    def restart(self, orders: tuple[Order, ...], replay: tuple[Packet, ...] = ()) -> None:
        """Forget what is under way and derive this from here on, `replay` first."""
        self.epoch += 1
        self.mailbox.restart(Restart(self.epoch, orders, replay))

    def close(self) -> None:
        """Let the thread go; it says its last word in the loop."""
        self.mailbox.close()
