"""What a caller's stream id asks for: a key alone, `publish:app/key`, or the access control document's `#!::r=…,m=publish,s=…`."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

from medianode.errors import InvalidRequest

STANDARD = "#!::"
MAX_FIELDS = 16


@dataclass(frozen=True, slots=True)
class StreamId:
    """`mode`: publish, request or bidirectional. `key`: the stream key, or, from who proves itself by a passphrase, the room. `app`: what
    was named before it; `room`: named beside the key, None where it was not.
    """

    mode: str
    key: str = field(repr=False)
    app: str = ""
    room: str | None = None


def parse_stream_id(text: str) -> StreamId:
    """Raises InvalidRequest. The text may hold a key and stands in no message.

    A key alone, as FastPix has it, means publish. So does the standard form without `m`, whose default would be request: who asks to
    play says so.
    """
    if text.startswith("%23!"):  # FFmpeg 5 sends what stands in its URL, undecoded
        text = unquote(text)
    if text.startswith(STANDARD):
        return _standard(text[len(STANDARD) :])
    if text.startswith("#!"):
        raise InvalidRequest("stream id: of the #! forms only #!::key=value,… is known")
    mode, colon, rest = text.partition(":")
    if not colon:
        mode, rest = "publish", text
    elif mode in ("read", "play"):
        mode = "request"
    elif mode != "publish":
        raise InvalidRequest("stream id: expected KEY, publish:APP/KEY or #!::r=APP/ROOM,m=publish,s=KEY")
    app, room = _split(rest.partition("?")[0].strip("/"))
    return StreamId(mode, room, app)


def _standard(text: str) -> StreamId:
    """`r`: app/room or app/key or a key; `s`: the key; `u`: who says so, of no weight; `h`, `t`: a host, and `stream`."""
    fields: dict[str, str] = {}
    for item in text.split(",")[: MAX_FIELDS + 1]:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InvalidRequest("stream id: expected key=value pairs between commas")
        fields[name.strip()] = value
    if len(fields) > MAX_FIELDS:
        raise InvalidRequest(f"stream id: expected at most {MAX_FIELDS} pairs")
    if fields.get("t", "stream") not in ("", "stream"):
        raise InvalidRequest("stream id: expected t=stream")
    app, room = _split(fields.get("r", "").strip("/"))
    mode, key = fields.get("m", "publish"), fields.get("s", "")
    # without its app a room says nothing
    return StreamId(mode, key, app, room if app and room else None) if key else StreamId(mode, room, app)


def _split(resource: str) -> tuple[str, str]:
    """`app/room`, or what is no path: a room or key alone."""
    app, slash, room = resource.partition("/")
    return (app, room) if slash else ("", resource)
