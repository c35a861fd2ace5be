"""What an offer and its answer agree on: the words between SDP and the media plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from medianode.media.track import Codec, Kind

PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"


class Fingerprint(NamedTuple):
    """RFC 8122: `algorithm` lower case (`sha-256`), `value` upper case with colons."""

    algorithm: str
    value: str


class Credentials(NamedTuple):
    """RFC 8445 5.3."""

    ufrag: str
    pwd: str


class Candidate(NamedTuple):
    """A host candidate of ours. `address` without brackets; TCP ones are passive (RFC 6544)."""

    address: str
    port: int
    protocol: Literal["udp", "tcp"]
    priority: int
    foundation: str


class RemoteTransport(NamedTuple):
    """The peer's side of the bundle. `setup` as it stands in the offer; ours follows: passive where we may choose."""

    credentials: Credentials
    fingerprints: tuple[Fingerprint, ...]
    setup: Literal["actpass", "active", "passive"]


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """Our side of the bundle, for the answer."""

    credentials: Credentials
    fingerprint: Fingerprint
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class SendMedia:
    """One m-section in which we send (WHEP). `fmtp` is the offer's own, echoed. `playout_delay`: the extension's id, 0 if not offered."""

    mid: str
    kind: Kind
    codec: Codec
    payload_type: int
    clock_rate: int
    channels: int = 0
    fmtp: str = ""
    rtx: int | None = None
    playout_delay: int = 0


@dataclass(frozen=True, slots=True)
class ReceiveCodec:
    """What one payload type of an m-section in which we receive means. `fmtp`: parameters by lower-case name."""

    codec: Codec
    clock_rate: int
    channels: int = 0
    fmtp: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extensions:
    """Header extension ids of an m-section (or the bundle); 0 where not agreed."""

    mid: int = 0
    rid: int = 0
    repaired_rid: int = 0
    transport_cc: int = 0


@dataclass(frozen=True, slots=True)
class ReceiveMedia:
    """One m-section in which we receive (WHIP).

    `codecs`: payload type → codec; `rtx`: rtx payload type → the payload type it repairs; `rids`: in the offer's order, empty without
    simulcast; `ssrcs`: those that the offer names, `rtx_ssrcs`: rtx SSRC → SSRC (ssrc-group FID).
    """

    mid: str
    kind: Kind
    codecs: dict[int, ReceiveCodec]
    rtx: dict[int, int] = field(default_factory=dict)
    extensions: Extensions = Extensions()
    rids: tuple[str, ...] = ()
    ssrcs: tuple[int, ...] = ()
    rtx_ssrcs: dict[int, int] = field(default_factory=dict)
