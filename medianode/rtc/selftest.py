"""At every start: do aiortc and pylibsrtp still look as we use them? What does not fit is told, and a slower public way taken.

- pylibsrtp's raw binding seals in place what its public API seals: else `srtp.RAW.usable` falls and the fan-out uses the API.
- aiortc's DTLS transport shakes hands on our wire: else `dtls.DRIVER` changes over to pyOpenSSL.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Awaitable

import aiortc
import OpenSSL
import pylibsrtp

from medianode.errors import ConfigError
from medianode.rtc import dtls, srtp
from medianode.rtc.dtls import Established, Identity, Shake, Wire
from medianode.rtc.srtp import Keys, Opener, Profile, Sealer

try:  # as in medianode.rtc.srtp
    from pylibsrtp._binding import ffi, lib  # type: ignore[import-not-found]  # compiled, without types
except ImportError:
    ffi = lib = None

TIMEOUT = 5.0
_RTP = struct.pack("!BBHII", 0x80, 96, 1, 2, 3) + b"payload"
_RTCP = struct.pack("!BBHI", 0x80, 201, 1, 3)


async def run() -> tuple[str, ...]:
    """One sentence for each thing that no longer fits. Raises ConfigError where not even the public APIs do."""
    found: list[str] = []
    if srtp.RAW.usable:
        why = await _why(raw_srtp())
        if why:
            srtp.RAW.usable = False
            found.append(f"pylibsrtp {pylibsrtp.__version__}: {why}; packets are sealed by its public API, which is slower")
    elif ffi is None:
        found.append(f"pylibsrtp {pylibsrtp.__version__} has no raw binding where we look; packets are sealed by its public API, slower")
    if dtls.DRIVER.shake is dtls.shake_by_aiortc:
        why = await _why(handshake(dtls.shake_by_aiortc))
        if why:
            dtls.DRIVER.shake = dtls.shake_directly
            found.append(f"aiortc {aiortc.__version__}: {why}; DTLS is done by pyOpenSSL {OpenSSL.__version__} directly")
    if dtls.DRIVER.shake is dtls.shake_directly:
        why = await _why(handshake(dtls.shake_directly))
        if why:
            raise ConfigError(f"WebRTC cannot work with pyOpenSSL {OpenSSL.__version__}: {why}; install the versions of the lock file")
    return tuple(found)


async def _why(check: Awaitable[str]) -> str:
    """What the check found. A changed library may raise anything: at the start of the process that is a finding too."""
    try:
        return await check
    except Exception as e:  # noqa: BLE001 - as the docstring says
        root = e.exceptions[0] if isinstance(e, ExceptionGroup) else e
        return f"it raised {type(root).__name__}: {root}"


async def raw_srtp() -> str:
    """Empty when the raw call writes the same bytes in place as the public one returns, for every profile."""
    for profile in Profile:
        keys = Keys(profile, bytes(range(profile.key_length + profile.salt_length)))
        raw, public = Sealer(keys), Sealer(keys)
        place = bytearray(_RTP + bytes(profile.tag))
        length = ffi.new("int *", len(_RTP))
        status = lib.srtp_protect(raw.handle, ffi.from_buffer("char[]", place), length)
        if status != 0:
            return f"srtp_protect returned {status} for {profile.name}"
        if bytes(place[: length[0]]) != public.protect(_RTP):
            return f"srtp_protect does not do what Session.protect does for {profile.name}"
        if len(place) != length[0]:
            return f"{profile.name} adds {length[0] - len(_RTP)} bytes, expected {profile.tag}"
    return ""


async def handshake(shake: Shake) -> str:
    """Empty when two of ours shake hands by `shake`, and what one seals the other opens."""
    identity = Identity()
    wires: list[Wire] = []
    client, server = (Wire(functools.partial(_carry, wires, other)) for other in (1, 0))
    wires += [client, server]
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
        first = group.create_task(_end(shake, identity, "server", server))
        second = group.create_task(_end(shake, identity, "client", client))
    one, two = first.result(), second.result()
    if one.outbound != two.inbound or one.inbound != two.outbound:
        return "the two ends of a handshake got different keys"
    if Opener(two.inbound).unprotect_rtcp(Sealer(one.outbound).protect_rtcp(_RTCP)) != _RTCP:
        return "what one end sealed the other did not open"
    return ""


async def _end(shake: Shake, identity: Identity, role: dtls.Role, wire: Wire) -> Established:
    return await shake(identity, role, (identity.fingerprint,), wire)


def _carry(wires: list[Wire], to: int, datagram: bytes) -> None:
    wires[to].deliver(datagram)
