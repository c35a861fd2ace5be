"""Names that end up in URLs and paths: project slugs, rooms, identities. One rule each, kept here. Pure.

A room's canonical name starts with its project's slug, yet it is unique only within the project: project `a` may have the room `a-b-x`
and project `a-b` the room `a-b-x`. Key rooms by (project, room), never by room alone.
"""

from __future__ import annotations

import re

from medianode.errors import InvalidRequest

SLUG_LENGTH = 64
ROOM_LENGTH = 120
IDENTITY_LENGTH = 128

# `streams`: /live/<app>/… would shadow FastPix's prefix-less /live/streams.
RESERVED_SLUGS = frozenset({"streams"})

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_ROOM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_slug(slug: str) -> str:
    """The slug itself: 1 to 64 of a-z, 0-9, `_`, `-`, a letter or digit at both ends, not reserved. Raises InvalidRequest."""
    if len(slug) > SLUG_LENGTH or not _SLUG.fullmatch(slug):
        raise InvalidRequest(f"slug: expected 1 to {SLUG_LENGTH} of a-z 0-9 _ - with a letter or digit at both ends, got {shown(slug)}")
    if slug in RESERVED_SLUGS:
        raise InvalidRequest(f"slug: {slug!r} is reserved")
    return slug


def room_name(slug: str, name: str) -> str:
    """The canonical name of a room of this project: `` → `slug`; `slug` and `slug-…` are kept; `name` → `slug-name`.

    Both forms of a name mean the same room. Raises InvalidRequest for other characters than A-Z a-z 0-9 . _ -, a leading dot, `..`, or
    more than 120 characters.
    """
    if not name:
        return slug
    if len(name) > ROOM_LENGTH or ".." in name or not _ROOM.fullmatch(name):
        raise InvalidRequest(f"room: expected up to {ROOM_LENGTH} of A-Z a-z 0-9 . _ - without a leading dot or '..', got {shown(name)}")
    if name == slug or name.startswith(f"{slug}-"):
        return name
    room = f"{slug}-{name}"
    if len(room) > ROOM_LENGTH:
        raise InvalidRequest(f"room: expected up to {ROOM_LENGTH} characters with the prefix {slug}-, got {len(room)}")
    return room


def check_identity(identity: str, field: str = "participantIdentity") -> str:
    """The identity itself: 1 to 128 printable characters, no space at either end. Raises InvalidRequest."""
    if not identity or len(identity) > IDENTITY_LENGTH or not identity.isprintable() or identity != identity.strip():
        raise InvalidRequest(f"{field}: expected 1 to {IDENTITY_LENGTH} printable characters, got {shown(identity)}")
    return identity


def shown(text: str, limit: int = 40) -> str:
    """A stranger's text as it may stand in a message: quoted, escaped, cut."""
    return ascii(text if len(text) <= limit else f"{text[:limit]}…")
