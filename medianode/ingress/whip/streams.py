"""Whose packet is it: the SSRCs of a bundle bound to the streams that the answer agreed on (RFC 8843 9.2, 8853, 4588)."""

from __future__ import annotations

from collections.abc import Callable

from medianode.ingress.whip.layers import Layer, LayerPicker
from medianode.media.source_clock import SourceClock, StreamClock
from medianode.media.track import Codec, Kind
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.payload import Depacketiser, depacketiser
from medianode.protocols.rtp.receiver import StreamReceiver
from medianode.protocols.sdp.plan import ReceiveCodec, ReceiveMedia

MAX_FRAME_BYTES = 8 << 20
"""Of one access unit."""
REPLACEABLE = 0.5
"""Seconds of silence, or a BYE, after which another SSRC may take a stream's place."""
VIDEO_WAIT = 0.5
AUDIO_WAIT = 0.2
"""Seconds that a hole may hold back what came behind it."""


class Section:
    """One m-section: its streams, and the key frames asked of it. `asked`: requests since the last key frame."""

    __slots__ = ("asked", "fir", "media", "picker", "slots", "wants_keyframe")

    def __init__(self, media: ReceiveMedia) -> None:
        self.media = media
        self.slots: list[Slot] = []
        self.picker: LayerPicker | None = None
        self.wants_keyframe = False
        self.asked = 0
        self.fir = 0


class Slot:
    """A stream that is expected: one per m-section, or one per RID of it. `index`: its track's. `layer`: with simulcast."""

    __slots__ = ("index", "layer", "repair", "rid", "section", "stream")

    def __init__(self, section: Section, index: int, rid: str, layer: Layer | None) -> None:
        self.section = section
        self.index = index
        self.rid = rid
        self.layer = layer
        self.stream: Incoming | None = None
        self.repair: int | None = None


class Incoming:
    """An SSRC that carries media: reordered by `receiver`, timed by `clock`, put together by `depacketiser`."""

    __slots__ = ("bye", "clock", "codec", "depacketiser", "heard_at", "kind", "payload_type", "receiver", "slot", "ssrc")

    def __init__(self, ssrc: int, slot: Slot, receiver: StreamReceiver, clock: StreamClock) -> None:
        self.ssrc = ssrc
        self.slot = slot
        self.receiver = receiver
        self.clock = clock
        self.kind: Kind = slot.section.media.kind
        self.payload_type = -1
        self.codec: Codec | None = None
        self.depacketiser: Depacketiser | None = None
        self.heard_at = 0.0
        self.bye = False

    def switch(self, payload_type: int, source: SourceClock) -> ReceiveCodec | None:
        """Packets of another payload type begin: the codec where it is another one than before, else None."""
        found = self.slot.section.media.codecs[payload_type]
        self.payload_type = payload_type
        if found.codec is self.codec:
            return None
        self.codec = found.codec
        self.depacketiser = depacketiser(found.codec, MAX_FRAME_BYTES)
        if found.clock_rate != self.clock.rate:
            source.forget(self.clock)
            self.clock = source.stream(found.clock_rate, leads=self.kind is Kind.AUDIO)
        return found


class Repair:
    """An SSRC that carries retransmissions for a slot."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


class Streams:
    """The map. `max_packets`: of one stream, waiting for a missing one. `count` is told of each packet that is nobody's, by cause."""

    def __init__(self, receives: tuple[ReceiveMedia, ...], source: SourceClock, max_packets: int, count: Callable[[str], None]) -> None:
        self._source = source
        self._max_packets = max_packets
        self._count = count
        self.routes: dict[int, Incoming | Repair] = {}
        self.sections = [Section(media) for media in receives]
        self.transport_cc = next((m.extensions.transport_cc for m in receives if m.extensions.transport_cc), 0)
        self._mid = next((m.extensions.mid for m in receives if m.extensions.mid), 0)
        self._payload_types: dict[int, Section | None] = {}
        indexes = {Kind.VIDEO: 0, Kind.AUDIO: 0}
        for section in self.sections:
            self._lay_out(section, indexes)
            for payload_type in (*section.media.codecs, *section.media.rtx):
                # one payload type in two sections names neither
                self._payload_types[payload_type] = None if payload_type in self._payload_types else section

    def _lay_out(self, section: Section, indexes: dict[Kind, int]) -> None:
        """The main track first, its layers behind it."""
        media = section.media
        main = indexes[media.kind]
        indexes[media.kind] += 1
        primaries = [ssrc for ssrc in media.ssrcs if ssrc not in media.rtx_ssrcs]
        # simulcast without RIDs (ssrc-group SIM) names its layers by their SSRCs alone
        names = media.rids or tuple(str(i) for i in range(len(primaries)))
        if len(names) < 2 or media.kind is Kind.AUDIO:
            section.slots.append(Slot(section, main, names[0] if media.rids else "", None))
            return
        for name in names:
            layer = Layer(name, indexes[media.kind])
            indexes[media.kind] += 1
            section.slots.append(Slot(section, layer.index, name, layer))
        section.picker = LayerPicker(main, tuple(slot.layer for slot in section.slots if slot.layer is not None))

    @property
    def track_ids(self) -> frozenset[int]:
        """Of all tracks that may come of it, as the Assembler numbers them."""
        ids: set[int] = set()
        for section in self.sections:
            odd = section.media.kind is Kind.AUDIO
            ids.update(slot.index * 2 + odd for slot in section.slots)
            if section.picker is not None:
                ids.add(section.picker.main * 2)
        return frozenset(ids)

    @property
    def incoming(self) -> list[Incoming]:
        return [slot.stream for section in self.sections for slot in section.slots if slot.stream is not None]

    def bind(self, packet: RtpPacket, now: float) -> Incoming | Repair | None:
        """The route of an SSRC that has none yet; None, and counted, where it cannot be told.

        Chrome shows mid and rid on the first packets only: what is bound stays.
        """
        section = self._section_of(packet)
        if section is None:
            self._count("unknown-stream")
            return None
        media = section.media
        repair = packet.payload_type in media.rtx
        if not repair and packet.payload_type not in media.codecs:
            self._count("unknown-payload-type")
            return None
        slot = self._slot_of(section, packet, repair=repair)
        if slot is None:
            self._count("unbound-retransmission" if repair else "unknown-layer")
            return None
        old = slot.stream
        if not repair and old is not None and not old.bye and now - old.heard_at < REPLACEABLE:
            self._count("second-source")
            return None
        # one SSRC of each kind per slot: the map is bounded by what was agreed on
        if repair:
            route: Incoming | Repair = Repair(slot)
            self.routes.pop(-1 if slot.repair is None else slot.repair, None)
            slot.repair = packet.ssrc
        else:
            if old is not None:
                self._source.forget(old.clock)
                self.routes.pop(old.ssrc, None)
            route = slot.stream = self._open(packet, slot)
        self.routes[packet.ssrc] = route
        return route

    def _open(self, packet: RtpPacket, slot: Slot) -> Incoming:
        kind = slot.section.media.kind
        rate = slot.section.media.codecs[packet.payload_type].clock_rate
        wait = VIDEO_WAIT if kind is Kind.VIDEO else AUDIO_WAIT
        receiver = StreamReceiver(rate, max_packets=self._max_packets, nack=True, max_wait=wait)
        return Incoming(packet.ssrc, slot, receiver, self._source.stream(rate, leads=kind is Kind.AUDIO))

    def _section_of(self, packet: RtpPacket) -> Section | None:
        if self._mid and (mid := packet.extensions.get(self._mid)) is not None:
            named = mid.decode("utf-8", "replace")
            return next((s for s in self.sections if s.media.mid == named), None)
        for section in self.sections:
            if packet.ssrc in section.media.ssrcs or packet.ssrc in section.media.rtx_ssrcs:
                return section
        return self._payload_types.get(packet.payload_type)

    def _slot_of(self, section: Section, packet: RtpPacket, *, repair: bool) -> Slot | None:
        media, slots = section.media, section.slots
        if len(slots) == 1:
            return slots[0]
        extension = media.extensions.repaired_rid if repair else media.extensions.rid
        rid = packet.extensions.get(extension) if extension else None
        if rid is not None:
            named = rid.decode("utf-8", "replace")
            return next((slot for slot in slots if slot.rid == named), None)
        if repair:
            repaired = self.routes.get(media.rtx_ssrcs.get(packet.ssrc, -1))
            return repaired.slot if repaired is not None else None
        primaries = [ssrc for ssrc in media.ssrcs if ssrc not in media.rtx_ssrcs]
        if packet.ssrc in primaries and primaries.index(packet.ssrc) < len(slots):
            return slots[primaries.index(packet.ssrc)]
        return None
