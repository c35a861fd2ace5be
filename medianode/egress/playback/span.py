"""Span: what part of a recording or a room's past is asked for, in `from` and `to`. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from medianode.errors import InvalidRequest

_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_EXPECTED = "expected RFC 3339 with its zone, Unix seconds, or +seconds from the beginning"
_LENGTH = 40
_YEAR_5000 = 95_617_584_000.0


class Span(NamedTuple):
    """Instants, wallclock; None: from the beginning, to the end."""

    since: float | None = None
    until: float | None = None


def parse_span(query: Mapping[str, str], started_at: float | None) -> Span:
    """`started_at`: what `+s` counts from, None where there is no one beginning. Raises InvalidRequest."""
    since, until = (instant(name, query.get(name), started_at) for name in ("from", "to"))
    if since is not None and until is not None and until <= since:
        raise InvalidRequest("to: expected an instant after from")
    return Span(since, until)


def instant(name: str, text: str | None, started_at: float | None) -> float | None:
    """One field, None where it is not there. Raises InvalidRequest."""
    if not text:
        return None
    if len(text) > _LENGTH:
        raise InvalidRequest(f"{name}: {_EXPECTED}, got {len(text)} characters")
    # a plus that was not escaped arrives as a space: in front of seconds, and of a zone
    text = text.replace(" ", "+")
    if text.startswith("+") and _NUMBER.fullmatch(text[1:]):
        if started_at is None:
            raise InvalidRequest(f"{name}: expected an absolute instant for a room, got {text}")
        return started_at + float(text[1:])
    if _NUMBER.fullmatch(text):
        found = float(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
            found = moment.timestamp() if moment.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            found = math.nan
    if not 0 <= found < _YEAR_5000:
        raise InvalidRequest(f"{name}: {_EXPECTED}, got {text!r}")
    return found
