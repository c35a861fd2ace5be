"""Channel: one stream on its way to many. Rows of viewers in step share every header byte; flows of their own follow one by one."""

from __future__ import annotations

from collections.abc import Callable

from medianode.media.track import Codec, Kind
from medianode.rtc.batch import Batch
from medianode.rtc.flow import Flow
from medianode.rtc.outgoing import Look, Outgoing, Stitch, Train
from medianode.rtc.pacing import MAX_BURST, MIN_BURST, MIN_RATE, Budget, Rate
from medianode.rtc.rows import ROW, Row
from medianode.rtc.viewer import Viewer

PACE = 3.0
"""Times the stream's rate at which frames that make a burst are sent."""
BURST_SECONDS = 0.1
REFRESH = 0.1
"""Seconds between two looks at where the peers are: each is a walk through memory that is cold."""
STALE_KEYFRAME = 10.0
"""Seconds of age over which a cached key frame is no place to start from."""


class Layout:
    """Flows whose packets are the same before sealing. `packets` and `nbytes` of payload that each of them was sent since it is here."""

    __slots__ = ("look", "nbytes", "packets", "plain_rows", "rows")

    def __init__(self, look: Look) -> None:
        self.look = look
        self.rows: list[Row] = []
        self.plain_rows: list[Row] = []
        self.packets = 0
        self.nbytes = 0

    def add(self, flow: Flow, batch: Batch) -> None:
        rows = self.plain_rows if flow.plain else self.rows
        row = next((row for row in reversed(rows) if len(row.targets) < ROW), None)
        if row is None:
            row = batch.row(plain=flow.plain)
            rows.append(row)
        row.add(flow)
        flow.row = row

    def remove(self, flow: Flow) -> None:
        row: Row = flow.row
        row.remove(flow)
        flow.row = None
        if not row.targets:
            for rows in (self.rows, self.plain_rows):
                if row in rows:
                    rows.remove(row)


class Channel:
    """`want_keyframe` asks the source; `slow` is asked whether it has something better for a slow viewer than fewer pictures."""

    def __init__(
        self, batch: Batch, outgoing: Outgoing, stitch: Stitch, want_keyframe: Callable[[float], None], slow: Callable[[Viewer], bool]
    ) -> None:
        self.batch = batch
        self.outgoing = outgoing
        self.codec: Codec | None = None
        self.want_keyframe = want_keyframe
        self.slow = slow
        self.cursor = 0
        """The train that goes out next."""
        self.sent_next = outgoing.next
        """Its first sequence number."""
        self.rate = Rate()
        self.overrun = 0
        """Packets that left the history before they were sent."""
        self._stitch = stitch
        self._layouts: dict[Look, Layout] = {}
        self._own: dict[Flow, None] = {}
        self._waiting: dict[Flow, None] = {}
        self._due = False
        """A key frame came for those who wait."""
        self._catching: dict[Flow, None] = {}
        self._replanted: list[Flow] = []
        self._budget = Budget()
        self._refreshed = 0.0
        self._rendered: dict[Look, list[bytes]] = {}
        self._rendered_first = -1

    def __len__(self) -> int:
        shared = sum(len(row.targets) for layout in self._layouts.values() for row in (*layout.rows, *layout.plain_rows))
        return shared + len(self._own) + len(self._waiting) + len(self._catching)

    def timestamp(self, now: float) -> int | None:
        """The RTP timestamp, unwrapped, of what would be captured at `now`."""
        ticks = self._stitch.now_ticks(now, self.outgoing.rate)
        return None if ticks is None else self.outgoing.offset + ticks

    # -- who gets it ------------------------------------------------------------------------------------------------------------------

    def add(self, flow: Flow, now: float) -> None:
        """From the cached key frame on, or from the next one; sound from the next packet on."""
        outgoing = self.outgoing
        if outgoing.kind is Kind.AUDIO:
            flow.start(self.cursor, self.sent_next)
            self.caught_up(flow)
            return
        key = outgoing.key_train
        if key is not None and now - outgoing.key_at <= STALE_KEYFRAME:
            flow.start(key, outgoing.trains[key].first)
            self._chase(flow, now)
        else:
            flow.waiting = True
            self._waiting[flow] = None
            self.want_keyframe(now)

    def caught_up(self, flow: Flow) -> None:
        flow.cursor = None
        self._catching.pop(flow, None)
        if not flow.shareable:
            self._own[flow] = None
            return
        layout = self._layouts.get(flow.look)
        if layout is None:
            layout = self._layouts[flow.look] = Layout(flow.look)
        layout.add(flow, self.batch)
        flow.entered(layout)

    def detach(self, flow: Flow) -> None:
        """From the shared path to numbers of its own."""
        if flow.layout is not None:
            self._unshare(flow)
            self._own[flow] = None

    def drop(self, flow: Flow) -> None:
        """No longer ours. Idempotent."""
        if flow.layout is not None:
            self._unshare(flow)
        for flows in (self._own, self._waiting, self._catching):
            flows.pop(flow, None)
        self.batch.wheel.unpace(flow)
        flow.cursor = None

    def invite(self, flow: Flow, now: float) -> None:
        """A flow of another channel comes over with our next key frame; till then it stays where it is."""
        self._waiting[flow] = None
        self.want_keyframe(now)

    def uninvite(self, flow: Flow) -> None:
        self._waiting.pop(flow, None)

    def set_codec(self, codec: Codec, rate: int) -> bool:
        """What is sent from now on. Flows that were promised another codec are sent nothing any more; True where there were such, or the
        codec was another: their viewers must negotiate anew.
        """
        changed = self.codec not in (None, codec)
        self.codec, self.outgoing.rate = codec, rate
        self.outgoing.key_train = None
        shared = [t for layout in self._layouts.values() for row in (*layout.rows, *layout.plain_rows) for t in row.targets]
        for flow in (*shared, *self._own, *self._catching, *self._waiting):
            if isinstance(flow, Flow) and flow.media.codec is not codec:
                self._waiting.pop(flow, None)
                if flow.channel is self:  # else it was only invited, and stays where it is
                    changed = True
                    self.drop(flow)
                    flow.off, flow.waiting = True, False
                    flow.viewer.hold_cause = "codec-changed"
        return changed

    def replant(self, flow: Flow) -> None:
        """Its route takes no GSO; move it once nobody iterates over the rows."""
        self._replanted.append(flow)

    def _unshare(self, flow: Flow) -> None:
        layout = flow.layout
        assert layout is not None
        layout.remove(flow)
        flow.left()
        if not layout.rows and not layout.plain_rows:
            self._layouts.pop(layout.look, None)

    def _chase(self, flow: Flow, now: float) -> None:
        if flow.cursor == self.cursor:
            self.caught_up(flow)
        else:
            self._catching[flow] = None
            if flow.pump(now):
                self.batch.wheel.pace(flow)

    def _welcome(self, now: float) -> None:
        """A key frame came: all who wait for one start with it."""
        outgoing = self.outgoing
        key = outgoing.key_train
        waiting, self._waiting = self._waiting, {}
        if key is None:
            return
        first = outgoing.trains[key].first
        for flow in waiting:
            if flow.gone:
                continue
            if flow.channel is self:
                flow.start(key, first)
            else:
                self._take_over(flow, key, first)
            self._chase(flow, now)

    def _take_over(self, flow: Flow, key: int, first: int) -> None:
        """Sequence and timestamp go on from what the other channel sent last."""
        old = flow.channel
        old.drop(flow)
        if flow.next < 0:
            flow.channel = self
            flow.start(key, first)
            return
        theirs, ours = old.timestamp(self.outgoing.key_at), self.timestamp(self.outgoing.key_at)
        ticks = (theirs or 0) + flow.moved - (ours or 0)
        last = flow.last_timestamp()
        if last is not None:
            ahead = (self.outgoing.packets[first][2] + ticks - last) & 0xFFFFFFFF
            if not 0 < ahead < 0x80000000:
                ticks += (-ahead & 0xFFFFFFFF) + self.outgoing.rate // 100
        flow.rebase(self, ticks, key, first)

    # -- what it gets -----------------------------------------------------------------------------------------------------------------

    def put_frame(self, payloads: list[bytes], ticks: int, *, keyframe: bool, reference: bool, now: float) -> None:
        self._put(self.outgoing.put_frame(payloads, ticks, keyframe=keyframe, reference=reference, now=now), now)
        self._due = self._due or (keyframe and bool(self._waiting))

    def put_samples(self, samples: list[tuple[bytes, int, bool]], now: float) -> None:
        self._put(self.outgoing.put_samples(samples, now), now)

    def _put(self, nbytes: int, now: float) -> None:
        if self.rate.add(nbytes, now):
            rate = self.rate.value
            self._budget.rate = max(PACE * rate, MIN_RATE)
            self._budget.burst = max(MIN_BURST, min(MAX_BURST, BURST_SECONDS * rate))

    @property
    def wait(self) -> float:
        return self._budget.wait

    def pump(self, now: float) -> bool:
        """Send what the pace allows; False when nothing waits any more."""
        outgoing, budget = self.outgoing, self._budget
        if self._due:
            self._due = False
            if not self._layouts and not self._own:
                # what a new feed replays is caught up with by each for himself, and not the pace of all
                self.cursor, self.sent_next = outgoing.next_train, outgoing.next
            self._welcome(now)
        while self.cursor < outgoing.next_train:
            if not self._layouts and not self._own:
                self.cursor, self.sent_next = outgoing.next_train, outgoing.next
                break
            if not budget.open(now):
                self.batch.wheel.pace(self)
                return True
            train = outgoing.trains.get(self.cursor)
            self.cursor += 1
            if train is None:
                self.overrun += 1
                continue
            budget.take(train.nbytes)
            if now - self._refreshed >= REFRESH:
                self._refreshed = now
                self.refresh()
            self._send(train)
        return False

    def refresh(self) -> None:
        """Peers that moved are sent to where they are now."""
        for layout in self._layouts.values():
            for row in (*layout.rows, *layout.plain_rows):
                row.refresh()

    def _send(self, train: Train) -> None:
        batch, count = self.batch, train.packets
        # whoever leaves while being sent to has been sent this
        self.sent_next = train.first + count
        for layout in tuple(self._layouts.values()):
            layout.packets += count
            layout.nbytes += train.nbytes
            run = batch.lay(self.render(train, layout.look), layout.look.tag)
            if layout.rows:
                batch.spread(layout.rows, run)
            if layout.plain_rows:
                batch.spread(layout.plain_rows, run)
        if self._own:
            for flow in tuple(self._own):
                if not flow.gone:
                    flow.offer(train)
        if self._replanted:
            for flow in self._replanted:
                if flow.layout is not None:
                    flow.layout.remove(flow)
                    flow.layout.add(flow, batch)
            self._replanted.clear()

    def render(self, train: Train, look: Look) -> list[bytes]:
        """As `Outgoing.render`, once per train and look."""
        if train.first != self._rendered_first:
            self._rendered_first = train.first
            self._rendered.clear()
        packets = self._rendered.get(look)
        if packets is None:
            packets = self._rendered[look] = self.outgoing.render(range(train.first, train.first + train.packets), look)
        return packets
