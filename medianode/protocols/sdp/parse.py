"""SDP offers (RFC 8866, 8829) as browsers, OBS, FFmpeg and GStreamer write them: tolerant of what is missing, bounded in all that is there.

Attributes may stand in any order (Firefox puts fmtp before rtpmap) and transport ones at session level (OBS, Firefox).
Raises InvalidRequest for what cannot be read and LimitExceeded for what is over a bound; messages never hold credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from medianode.errors import InvalidRequest, LimitExceeded
from medianode.media.names import shown
from medianode.protocols.sdp.plan import Credentials, Fingerprint, RemoteTransport

MAX_BYTES = 131_072
MAX_LINES = 4096
MAX_LINE = 8192
MAX_SECTIONS = 32
MAX_FORMATS = 128
MAX_SSRCS = 64
MAX_RIDS = 16
MAX_EXTENSIONS = 64
MAX_FEEDBACK = 16

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
Setup = Literal["actpass", "active", "passive"]

DIRECTIONS: Final[dict[str, Direction]] = {"sendrecv": "sendrecv", "sendonly": "sendonly", "recvonly": "recvonly", "inactive": "inactive"}
SETUPS: Final[dict[str, Setup]] = {"actpass": "actpass", "active": "active", "passive": "passive"}
HASHES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
"""Hash functions that we compare, with their lengths; weaker ones count as not there."""
STATIC_TYPES = {0: ("pcmu", 8000, 1), 8: ("pcma", 8000, 1)}
"""RFC 3551: need no rtpmap."""
_SESSION_TRANSPORT = frozenset({"ice-ufrag", "ice-pwd", "fingerprint", "setup"})

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(r"[!-~]{1,64}")
_ICE = re.compile(r"[!-~]{4,256}")
_HEX_PAIRS = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2})*")


@dataclass(slots=True)
class Format:
    """One payload type. `name` lower case; `fmtp` as it stands there; `feedback` the values of a=rtcp-fb."""

    payload_type: int
    name: str = ""
    clock_rate: int = 0
    channels: int = 0
    fmtp: str = ""
    feedback: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, str]:
        """fmtp taken apart: names in lower case; one without a value has an empty one."""
        found: dict[str, str] = {}
        for item in self.fmtp.split(";"):
            name, _, value = item.strip().partition("=")
            if name:
                found[name.strip().lower()] = value.strip()
        return found


class Extension(NamedTuple):
    """a=extmap. `direction` empty where none is said (RFC 8285 5)."""

    id: int
    direction: str


@dataclass(slots=True)
class Section:
    """One m-section. `mid` is made up from the index where the offer has none (`has_mid` tells).

    `rids`: those of direction send, in the order of a=simulcast, else of a=rid. `groups`: a=ssrc-group as (semantics, SSRCs).
    """

    index: int
    media: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    mid: str
    has_mid: bool = False
    direction: Direction = "sendrecv"
    rtcp_mux: bool = False
    bundle_only: bool = False
    types: dict[int, Format] = field(default_factory=dict)
    extensions: dict[str, Extension] = field(default_factory=dict)
    rids: tuple[str, ...] = ()
    ssrcs: list[int] = field(default_factory=list)
    groups: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    ufrag: str = ""
    pwd: str = ""
    setup: str = ""
    fingerprints: list[Fingerprint] = field(default_factory=list)
    candidates: int = 0

    @property
    def rejected(self) -> bool:
        return self.port == 0 and not self.bundle_only

    @property
    def is_media(self) -> bool:
        return self.media in ("audio", "video") and not self.rejected

    @property
    def sends(self) -> bool:
        """The offerer would send."""
        return self.direction in ("sendrecv", "sendonly")

    @property
    def receives(self) -> bool:
        return self.direction in ("sendrecv", "recvonly")


@dataclass(slots=True)
class Offer:
    """`bundle`: the mids of the group that our one transport serves, empty without one; `mids`: all that this transport can serve."""

    sections: tuple[Section, ...]
    bundle: tuple[str, ...]
    mids: frozenset[str]
    remote: RemoteTransport
    ice_lite: bool = False

    def section(self, mid: str) -> Section:
        return next(s for s in self.sections if s.mid == mid)

    @property
    def outside(self) -> tuple[Section, ...]:
        """Media sections that would need a transport of their own."""
        return tuple(s for s in self.sections if s.is_media and s.mid not in self.mids)


def split_lines(text: str, max_bytes: int) -> list[str]:
    """The lines, under their bounds. A lone CR or LF ends one as well."""
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise LimitExceeded(f"SDP: expected up to {max_bytes} bytes, got more")
    if _CONTROL.search(text):
        raise InvalidRequest("SDP: expected text, got control characters")
    lines = [line for line in text.replace("\r", "\n").split("\n") if line]
    if len(lines) > MAX_LINES:
        raise LimitExceeded(f"SDP: expected up to {MAX_LINES} lines, got {len(lines)}")
    if any(len(line) > MAX_LINE for line in lines):
        raise LimitExceeded(f"SDP: expected lines of up to {MAX_LINE} characters, got a longer one")
    return lines


def parse_offer(text: str, max_bytes: int = MAX_BYTES) -> Offer:
    """Raises InvalidRequest and LimitExceeded."""
    lines = split_lines(text, max_bytes)
    if not lines or lines[0].strip() != "v=0":
        raise InvalidRequest("expected SDP, which begins with v=0", code="invalid-sdp")
    session = Section(-1, "", 9, "", (), "")
    groups: list[tuple[str, ...]] = []
    sections: list[Section] = []
    ice_lite = False
    reader = _Reader(session)
    for line in lines:
        kind, value = line[:2], line[2:].strip()
        if kind == "m=":
            if len(sections) == MAX_SECTIONS:
                raise LimitExceeded(f"SDP: expected up to {MAX_SECTIONS} m-sections, got more")
            reader.finish()
            section = _media(len(sections), value)
            section.direction = session.direction
            sections.append(section)
            reader = _Reader(section)
        elif kind == "a=":
            name, _, rest = value.partition(":")
            if reader.section is session and name == "group":
                semantics, *mids = rest.split()[: MAX_SECTIONS + 1] or [""]
                if semantics == "BUNDLE" and len(groups) < MAX_SECTIONS:
                    groups.append(tuple(mids))
            elif reader.section is session and name == "ice-lite":
                ice_lite = True
            else:
                reader.attribute(name, rest.strip())
    reader.finish()
    if not sections:
        raise InvalidRequest("SDP: expected at least one m-section, got none", code="invalid-sdp")
    for section in sections:
        for uri, extension in session.extensions.items():
            section.extensions.setdefault(uri, extension)
    _check_mids(sections)
    return _offer(session, sections, groups, ice_lite)


class _Reader:
    """Takes the attributes of one section (or of the session)."""

    __slots__ = ("order", "rids", "section", "wildcards")

    def __init__(self, section: Section) -> None:
        self.section = section
        self.rids: list[str] = []
        self.order: list[str] = []
        self.wildcards = 0

    def attribute(self, name: str, value: str) -> None:
        section = self.section
        if name in DIRECTIONS:
            section.direction = DIRECTIONS[name]
        elif name in ("rtpmap", "fmtp", "rtcp-fb"):
            self._format(name, value)
        elif name == "candidate":
            section.candidates += 1
        elif name == "mid":
            if not _TOKEN.fullmatch(value):
                raise InvalidRequest(f"a=mid: expected a token of up to 64 characters, got {shown(value)}", code="invalid-sdp")
            section.mid, section.has_mid = value, True
        elif name in _SESSION_TRANSPORT:
            _transport(section, name, value)
        elif name == "rtcp-mux":
            section.rtcp_mux = True
        elif name == "bundle-only":
            section.bundle_only = True
        elif name == "extmap":
            self._extension(value)
        elif name in ("ssrc", "ssrc-group"):
            self._ssrc(name, value)
        elif name == "rid":
            self._rid(value)
        elif name == "simulcast":
            self._simulcast(value)

    def finish(self) -> None:
        """`a=simulcast` tells the order (RFC 8853 5.2), not the lines of a=rid."""
        known = set(self.rids)
        order = [rid for rid in dict.fromkeys(self.order) if rid in known]
        self.section.rids = tuple(order or self.rids)

    def _format(self, name: str, value: str) -> None:
        number, _, rest = value.partition(" ")
        types = self.section.types
        if name == "rtcp-fb" and number == "*":
            self.wildcards += 1
            if self.wildcards <= MAX_FEEDBACK:  # each costs as much as there are formats
                for each in types.values():
                    _feed_back(each, rest)
            return
        if not number.isascii() or not number.isdigit() or len(number) > 3 or int(number) > 127:
            raise InvalidRequest(f"a={name}: expected a payload type of 0 to 127, got {shown(number)}", code="invalid-sdp")
        kind = types.get(int(number))
        if kind is None:
            return  # not in the m-line: Chrome leaves some behind after setCodecPreferences, and it means nothing
        if name == "fmtp":
            kind.fmtp = rest.strip()
        elif name == "rtcp-fb":
            _feed_back(kind, rest)
        else:
            encoding, _, parameters = rest.strip().partition("/")
            clock, _, channels = parameters.partition("/")
            kind.name, kind.clock_rate = encoding.lower(), _number(clock, "a=rtpmap", 10_000_000)
            kind.channels = _number(channels, "a=rtpmap", 255) if channels else 1 if self.section.media == "audio" else 0

    def _extension(self, value: str) -> None:
        head, _, uri = value.partition(" ")
        number, _, direction = head.partition("/")
        extensions = self.section.extensions
        if len(extensions) >= MAX_EXTENSIONS:
            raise LimitExceeded(f"SDP: expected up to {MAX_EXTENSIONS} header extensions in an m-section, got more")
        found = _number(number, "a=extmap", 65_535)
        uri = uri.split(" ", 1)[0]
        # ids over 4095 are offers for later (RFC 8285 7); 15 is reserved
        if uri and 1 <= found <= 255 and found != 15:
            extensions.setdefault(uri, Extension(found, direction if direction in DIRECTIONS else ""))

    def _ssrc(self, name: str, value: str) -> None:
        section = self.section
        words = value.split()
        if name == "ssrc":
            number = _number(words[0] if words else "", "a=ssrc", 0xFFFFFFFF)
            if number not in section.ssrcs:
                section.ssrcs.append(number)
        elif words:
            if len(words) > MAX_SSRCS:
                raise LimitExceeded(f"SDP: expected up to {MAX_SSRCS} SSRCs in an m-section, got more")
            section.groups.append((words[0].upper(), tuple(_number(word, "a=ssrc-group", 0xFFFFFFFF) for word in words[1:])))
        if len(section.ssrcs) > MAX_SSRCS or len(section.groups) > MAX_SSRCS:
            raise LimitExceeded(f"SDP: expected up to {MAX_SSRCS} SSRCs in an m-section, got more")

    def _rid(self, value: str) -> None:
        words = value.split()
        if len(words) < 2 or words[1] != "send":
            return
        if not _TOKEN.fullmatch(words[0]) or set(words[0]) & set(";,~="):
            raise InvalidRequest(f"a=rid: expected an identifier, got {shown(words[0])}", code="invalid-sdp")
        if words[0] not in self.rids:
            self.rids.append(words[0])
        if len(self.rids) > MAX_RIDS:
            raise LimitExceeded(f"SDP: expected up to {MAX_RIDS} rids in an m-section, got more")

    def _simulcast(self, value: str) -> None:
        words = value.split()[:4]
        for direction, streams in zip(words[::2], words[1::2], strict=False):
            if direction == "send":  # of alternatives the first; `~` is paused for now
                self.order = [stream.split(",", 1)[0].lstrip("~") for stream in streams.split(";")[: MAX_RIDS + 1]]


def _feed_back(kind: Format, value: str) -> None:
    value = " ".join(value.split()).lower()
    if value not in kind.feedback and len(kind.feedback) < MAX_FEEDBACK:
        kind.feedback.append(value)


def _number(text: str, where: str, most: int) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > most:
        raise InvalidRequest(f"{where}: expected a number up to {most}, got {shown(text)}", code="invalid-sdp")
    return int(text)


def _media(index: int, value: str) -> Section:
    words = value.split()
    if len(words) < 4 or not _TOKEN.fullmatch(words[0]) or not _TOKEN.fullmatch(words[2]):
        raise InvalidRequest(f"m=: expected media, port, protocol and formats, got {shown(value)}", code="invalid-sdp")
    if len(words) - 3 > MAX_FORMATS:
        raise LimitExceeded(f"SDP: expected up to {MAX_FORMATS} formats in an m-section, got {len(words) - 3}")
    port = _number(words[1].partition("/")[0], "m=", 65_535)
    formats = tuple(words[3:])
    section = Section(index, words[0].lower(), port, words[2], formats, f"#{index}")
    if section.media in ("audio", "video"):
        for word in formats:
            number = _number(word, "m=", 127)
            name, clock_rate, channels = STATIC_TYPES.get(number, ("", 0, 0))
            section.types[number] = Format(number, name, clock_rate, channels)
    elif not all(_TOKEN.fullmatch(word) for word in formats):
        raise InvalidRequest("m=: expected formats that are tokens", code="invalid-sdp")
    return section


def _transport(section: Section, name: str, value: str) -> None:
    if name == "fingerprint":
        algorithm, _, digest = value.partition(" ")
        algorithm, digest = algorithm.lower(), digest.strip().upper()
        if algorithm not in HASHES or len(section.fingerprints) >= len(HASHES):
            return
        if len(digest) != HASHES[algorithm] * 3 - 1 or not _HEX_PAIRS.fullmatch(digest):
            raise InvalidRequest(f"a=fingerprint: expected {HASHES[algorithm]} hexadecimal pairs for {algorithm}", code="invalid-sdp")
        section.fingerprints.append(Fingerprint(algorithm, digest))
    elif name == "setup":
        section.setup = value.lower()
    else:
        check_ice(name, value)
        if name == "ice-ufrag":
            section.ufrag = value
        else:
            section.pwd = value


def check_ice(name: str, value: str) -> None:
    """RFC 8839 5.4: 4 to 256 characters of a fragment, 22 to 256 of a password. The value itself stands in no message."""
    if not _ICE.fullmatch(value) or (name == "ice-pwd" and len(value) < 22) or ":" in value:
        least = 4 if name == "ice-ufrag" else 22
        raise InvalidRequest(f"a={name}: expected {least} to 256 characters without a space or colon", code="invalid-sdp")


def _check_mids(sections: Iterable[Section]) -> None:
    seen: set[str] = set()
    for section in sections:
        if section.mid in seen:
            raise InvalidRequest(f"a=mid: expected each to be there once, got {shown(section.mid)} twice", code="invalid-sdp")
        seen.add(section.mid)


def _offer(session: Section, sections: list[Section], groups: list[tuple[str, ...]], ice_lite: bool) -> Offer:
    by_mid = {section.mid: section for section in sections}
    bundle: tuple[str, ...] = ()
    for group in groups:
        members = tuple(dict.fromkeys(mid for mid in group if mid in by_mid and by_mid[mid].has_mid))
        if any(by_mid[mid].is_media for mid in members):
            bundle = members
            break
    if bundle:
        served = [by_mid[mid] for mid in bundle if not by_mid[mid].rejected]
    else:
        media = [s for s in sections if s.is_media and s.direction != "inactive"] or [s for s in sections if s.is_media]
        served = [next((s for s in media if s.media == "video"), media[0])] if media else []
    if not served:
        raise InvalidRequest("SDP: expected an audio or video section that is not rejected, got none", code="no-media")
    return Offer(tuple(sections), bundle, frozenset(s.mid for s in served), _remote(session, served), ice_lite)


def _remote(session: Section, served: list[Section]) -> RemoteTransport:
    """The transport of the first section in the group, which the others share (RFC 9143 7.1.3), with the session's as a fallback."""
    tagged = next((s for s in served if s.ufrag and s.pwd), session)
    signed = next((s for s in served if s.fingerprints), session)
    if not tagged.ufrag or not tagged.pwd:
        raise InvalidRequest("SDP: expected a=ice-ufrag and a=ice-pwd, got none", code="invalid-sdp")
    if not signed.fingerprints:
        raise InvalidRequest(f"SDP: expected a=fingerprint by one of {', '.join(HASHES)}, got none", code="invalid-sdp")
    words = next((s.setup for s in served if s.setup), session.setup) or "actpass"
    setup = SETUPS.get(words)
    if setup is None:
        raise InvalidRequest(f"a=setup: expected actpass, active or passive, got {shown(words)}", code="invalid-sdp")
    return RemoteTransport(Credentials(tagged.ufrag, tagged.pwd), tuple(signed.fingerprints), setup)
