from __future__ import annotations

from medianode import clock, config
from medianode.api.sessions import view_of
from medianode.events import Bus
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.routing.room import Room
from medianode.transcode.renditions import Renditions, Want
from tests.samples import grant

VIDEO = Track(1, Codec.H264, 90_000, b"", 320, 240)


def picture(pts: int, dts: int, nal_type: int, ref: int) -> Packet:
    return Packet(VIDEO, bytes([0, 0, 0, 2, ref << 5 | nal_type, 0x80]), pts, dts, nal_type == 5, clock.now())


async def test_a_session_tells_what_is_made_of_it_now() -> None:
    room = Room("live", "live-a", "p", Bus(), (100, 1 << 20), lambda room: None)
    publication = room.publish(grant(), "rtmp", "192.0.2.7", lambda error: None)
    publication.set_tracks((VIDEO,))
    publication.write(picture(3000, 0, 5, 1))
    other = room.publish(grant(identity="second"), "rtmp", "192.0.2.8", lambda error: None)
    async with Renditions(config.Limits(), config.Mjpeg(), config.Hls()) as renditions:
        async with renditions.acquire(room, Want("realtime", "opus"), 0.0):
            publication.write(picture(12_000, 3000, 1, 1))
            publication.write(picture(6000, 6000, 1, 0))
            view = view_of(room, publication, clock.now(), renditions.all)
            (made,) = view.renditions
            assert (made.video, made.audio, made.users, made.transcodes) == ("realtime", "opus", 1, False)
            assert made.treatment == {"video": "b-frames-dropped"}
            assert made.dropped == {"b-frame": 1}
            assert (made.queued, made.latency, made.last_error) == (0, {}, "")
            assert any("see a lower frame rate" in hint for hint in view.hints)
            assert view_of(room, other, clock.now(), renditions.all).renditions == []
        await renditions.close()
        assert view_of(room, publication, clock.now(), renditions.all).renditions == []
    assert any("will be left out" in hint for hint in view_of(room, publication, clock.now()).hints)
