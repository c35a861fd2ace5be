"""Envelopes: one fact in the words of each vendor's webhooks. Pure: from Fact and Subject to bytes."""

from __future__ import annotations

from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks.facts import Fact
from medianode.webhooks.subject import Subject


def translate(endpoint: WebhookEndpoint, fact: Fact, subject: Subject) -> list[tuple[str, bytes]]:
    """The event's name and its body for this endpoint, in its dialect.

    Empty where the dialect has no word for the fact, or the endpoint does not want it. Some facts are two events there.
    """
    return []
