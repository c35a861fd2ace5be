"""FLV tag bodies into an Assembler: what RTMP carries, coming or fetched, and FLV by HTTP."""

from __future__ import annotations

from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.ingress.assembler import Assembler
from medianode.media.track import Kind
from medianode.protocols import flv
from medianode.protocols.flv import PacketType


def take_tag(assembler: Assembler, kind: Kind, payload: bytes, ms: int, now: float) -> None:
    """One tag at `ms` of the publisher's unwrapped clock. Raises as the Assembler."""
    if kind not in assembler.publication.grant.kinds:
        assembler.unwanted(kind)
        return
    try:
        tags: list[flv.VideoTag] | list[flv.AudioTag]
        tags = flv.parse_video(payload) if kind is Kind.VIDEO else flv.parse_audio(payload)
    except (ProtocolError, UnsupportedMedia) as e:
        assembler.bad_frame(e)
        return
    for tag in tags:
        if tag.packet_type is PacketType.FRAMES:
            offset = tag.composition_time + tag.nanoseconds / 1e6 if isinstance(tag, flv.VideoTag) else 0
            assembler.frame(tag.codec, tag.track_id, tag.data, ms, offset, now)
        elif tag.packet_type is PacketType.CONFIG:
            assembler.configure(tag.codec, tag.track_id, tag.data, now)
