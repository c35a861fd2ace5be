"""Envelopes: one fact in the words of each vendor's webhooks. Pure: from Fact and Subject to bytes.

A fact may be several events in a dialect, or none. Bodies are compact JSON with the keys in the order of the vendor's documents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks.dialects import baxcloud, fastpix, streamhub
from medianode.webhooks.dialects.samples import SAMPLES
from medianode.webhooks.facts import TEST, Dialect, Fact, matches
from medianode.webhooks.subject import Subject

Message = tuple[str, bytes]
"""An event's name, and its body."""

_DIALECTS: dict[str, Callable[[Fact, Subject, str], list[Message]]] = {
    "baxcloud": baxcloud.messages,
    "streamhub": streamhub.messages,
    "fastpix": fastpix.messages,
}
PROFILES = {"baxcloud": ("seed",), "streamhub": ("seed",), "fastpix": ("seed", "2026")}


def translate(endpoint: WebhookEndpoint, fact: Fact, subject: Subject) -> list[Message]:
    """The event's name and its body for this endpoint, in its dialect.

    Empty where the dialect has no word for the fact, or the endpoint does not want it. A test is wanted by all.
    """
    messages = _DIALECTS[endpoint.dialect](fact, subject, endpoint.profile)
    return [(name, body) for name, body in messages if fact.type == TEST or matches(endpoint.events, name)]


def names(dialect: Dialect, profile: str = "seed") -> tuple[str, ...]:
    """All event names of a dialect, but for the test's."""
    if dialect == "baxcloud":
        return baxcloud.NAMES
    return streamhub.NAMES if dialect == "streamhub" else fastpix.names(profile)


@cache
def examples(dialect: Dialect, profile: str = "seed") -> tuple[Message, ...]:
    """One of each event of the dialect, and its test, as they are really sent: for the documents and for trying an endpoint."""
    found: dict[str, bytes] = {}
    for fact, subject in SAMPLES:
        for name, body in _DIALECTS[dialect](fact, subject, profile):
            found.setdefault(name, body)
    order = (*names(dialect, profile), *(name for name in found if name not in names(dialect, profile)))
    return tuple((name, found[name]) for name in order if name in found)
