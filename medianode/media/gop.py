"""The newest GOP of a publication, kept for late joiners and snapshots. Bounded in packets and bytes."""

from __future__ import annotations

from medianode.media.packet import Packet


class GopCache:
    """Packets since the newest key frame of the first video track, audio included; empty where there is no video."""

    __slots__ = ("_max_bytes", "_max_packets", "_nbytes", "_track_id", "overflows", "packets")

    def __init__(self, max_packets: int, max_bytes: int) -> None:
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._track_id = -1
        self.packets: list[Packet] = []
        self.overflows = 0

    def start(self, video_track_id: int | None) -> None:
        """Forget all; a GOP opens at the next key frame of this track."""
        self._track_id = -1 if video_track_id is None else video_track_id
        self.packets = []
        self._nbytes = 0

    def push(self, packet: Packet) -> None:
        if packet.keyframe and packet.track.id == self._track_id:
            self.packets = [packet]
            self._nbytes = len(packet.data)
        elif self.packets:
            self.packets.append(packet)
            self._nbytes += len(packet.data)
            if len(self.packets) > self._max_packets or self._nbytes > self._max_bytes:
                self.packets = []
                self._nbytes = 0
                self.overflows += 1

    @property
    def keyframe(self) -> Packet | None:
        """The newest key frame of the video track."""
        return self.packets[0] if self.packets else None
