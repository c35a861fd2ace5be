"""SRTP (RFC 3711, 7714) by libsrtp: keys, one sealer and one opener per peer.

The fan-out seals packets in place through pylibsrtp's private binding, which is four times faster than its public API. `RAW` tells
whether the binding still fits (`medianode.rtc.selftest` looks at every start); where it does not, the public API takes over.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import pylibsrtp
from pylibsrtp import Policy, Session

from medianode.errors import ProtocolError

try:  # private to pylibsrtp: a release may move it
    from pylibsrtp._binding import ffi, lib  # type: ignore[import-not-found]  # compiled, without types
except ImportError:  # pragma: no cover - for a pylibsrtp that is not yet written
    ffi = lib = None


MAX_SSRCS = 128
"""Of one peer, in all its life; three layers with retransmission and sound are seven."""


class Profile(Enum):
    """Protection profiles by preference, with what they add to a packet."""

    AEAD_AES_128_GCM = (b"SRTP_AEAD_AES_128_GCM", Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12, 16)
    AEAD_AES_256_GCM = (b"SRTP_AEAD_AES_256_GCM", Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12, 16)
    AES_CM_128_HMAC_SHA1_80 = (b"SRTP_AES128_CM_SHA1_80", Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14, 10)

    __hash__ = object.__hash__

    def __init__(self, openssl: bytes, libsrtp: int, key_length: int, salt_length: int, tag: int) -> None:
        self.openssl = openssl
        self.libsrtp = libsrtp
        self.key_length = key_length
        self.salt_length = salt_length
        self.tag = tag
        """Bytes that protection adds to an RTP packet."""


class Keys(NamedTuple):
    """`material` is the master key followed by the master salt."""

    profile: Profile
    material: bytes


def _session(keys: Keys, kind: int) -> Session:
    policy = Policy(key=keys.material, ssrc_type=kind, srtp_profile=keys.profile.libsrtp)
    policy.allow_repeat_tx = True  # a lost packet is sent again as the very same bytes
    policy.window_size = 1024
    return Session(policy)


class Sealer:
    """Outbound. `handle` is libsrtp's `srtp_t` for `lib.srtp_protect(handle, pointer, length_pointer)`, or None without the raw binding.

    Never seal two different plaintexts under one SSRC and index: with GCM that gives the key away.
    """

    __slots__ = ("_session", "handle", "keys", "tag")

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.tag = keys.profile.tag
        self._session = _session(keys, Policy.SSRC_ANY_OUTBOUND)
        self.handle: Any = self._session._srtp[0] if RAW.usable else None

    def protect(self, packet: bytes) -> bytes:
        """Raises ProtocolError where libsrtp refuses: the index is too far back, the packet over `RAW.longest`."""
        try:
            return self._session.protect(packet)
        except (pylibsrtp.Error, ValueError) as e:
            raise ProtocolError(f"SRTP: {e}") from None

    def protect_rtcp(self, packet: bytes) -> bytes:
        return self._session.protect_rtcp(packet)


class Opener:
    """Inbound. Raises ProtocolError on what does not authenticate, or was seen before, and on the streams over MAX_SSRCS."""

    __slots__ = ("_session", "_ssrcs")

    def __init__(self, keys: Keys) -> None:
        self._session = _session(keys, Policy.SSRC_ANY_INBOUND)
        self._ssrcs: set[bytes] = set()

    def unprotect(self, packet: bytes) -> bytes:
        ssrc = packet[8:12]
        if ssrc not in self._ssrcs:
            self._admit()
        try:
            opened = self._session.unprotect(packet)
        except (pylibsrtp.Error, ValueError) as e:
            raise ProtocolError(f"SRTP: {e}") from None
        self._ssrcs.add(ssrc)
        return opened

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        ssrc = packet[4:8]
        if ssrc not in self._ssrcs:
            self._admit()
        try:
            opened = self._session.unprotect_rtcp(packet)
        except (pylibsrtp.Error, ValueError) as e:
            raise ProtocolError(f"SRTCP: {e}") from None
        self._ssrcs.add(ssrc)
        return opened

    def _admit(self) -> None:
        """libsrtp keeps a stream for each SSRC for ever, and looks through all of them for each packet."""
        if len(self._ssrcs) >= MAX_SSRCS:
            raise ProtocolError(f"SRTP: expected at most {MAX_SSRCS} SSRCs of one peer, got one more")


class _Raw:
    """Whether the private binding may be used; the self-test may take it away."""

    usable = ffi is not None

    @property
    def longest(self) -> int:
        """Bytes of a packet before sealing. pylibsrtp's own buffer has 1500, a trailer's 144 included."""
        return 8192 if self.usable else 1356


RAW = _Raw()
