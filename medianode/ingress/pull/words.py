"""What failed, as a kebab code and in plain words for who looks after the camera."""

from __future__ import annotations

import errno
import os
import ssl

from medianode.errors import MedianodeError

_REFUSED = {
    400: ("rejected", "it does not understand the request"),
    401: ("unauthorized", "user or password is wrong, or missing"),
    403: ("unauthorized", "this user may not see it"),
    404: ("not-found", "it has no such path: is the part behind the host right?"),
    406: ("not-found", "it cannot give what is asked for"),
    407: ("unauthorized", "a proxy wants a password"),
    453: ("source-full", "it has no bandwidth left: too many viewers on the camera?"),
    454: ("rejected", "it has forgotten the session"),
    461: ("unsupported-transport", "it does not send this way"),
    500: ("source-error", "it has a fault of its own"),
    503: ("source-full", "it is busy: too many viewers on the camera?"),
}
LENGTH = 300
"""Characters of a message that is kept."""
_NUMBERS = {
    errno.ECONNREFUSED: ("connection-refused", "nothing listens there: is the port right, and the source up?"),
    errno.EHOSTUNREACH: ("no-route", "no route to it: is it switched on, and in this network?"),
    errno.ENETUNREACH: ("no-route", "no route to its network"),
    errno.ETIMEDOUT: ("unreachable", "no answer at all: is it switched on?"),
    errno.ECONNRESET: ("connection-reset", "it cut the connection"),
    errno.EPIPE: ("connection-reset", "it cut the connection"),
}


def printable(text: str, length: int | None = None) -> str:
    """Fit to be shown and kept: some sources send what is no text, which no database takes, and some send a book."""
    return "".join(c if c.isprintable() else " " for c in text[:length])


def refused(status: int, step: str) -> tuple[str, str]:
    """Of an RTSP or HTTP status. Its own words are left out: they may repeat what they were asked with."""
    code, words = _REFUSED.get(status, ("rejected" if status < 500 else "source-error", "it refuses"))
    return code, f"{words} ({step} {status})"


def describe(error: BaseException, host: str) -> tuple[str, str]:
    """A code and a sentence. What a source said is masked where it is quoted."""
    match error:
        case MedianodeError():
            return error.code, printable(error.message, LENGTH)
        case ssl.SSLCertVerificationError():
            why = getattr(error, "verify_message", "") or error.strerror
            return "certificate-not-trusted", f"the certificate of {host} is not trusted ({why}): outbound.cafile may name a PEM to trust"
        case ssl.SSLError():
            return "tls-failed", f"{host}: TLS failed ({getattr(error, 'reason', '') or error.strerror}): is this the TLS port?"
        case TimeoutError() if not error.errno:
            return "unreachable", f"{host}: no answer in time"
        case OSError():
            words = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            code, said = _NUMBERS.get(error.errno or 0, ("unreachable", words))
            return code, f"{host}: {said}"
    return "internal", f"our fault: {type(error).__name__}"
