"""The tables. A change here needs a migration under migrations/versions; a test holds the two equal on both databases.

Instants are `clock.wallclock()` (seconds since the epoch, UTC). `sealed` columns are `Secrets.seal`ed, `*_lookup` and `hash` are digests.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Double, ForeignKey, Index, LargeBinary, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("slug", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("viewing", String(16), nullable=False),
    Column("open_publish", Boolean, nullable=False),
    Column("jwt_key_id", String(64), nullable=False, unique=True),
    Column("jwt_secret", LargeBinary, nullable=False),  # sealed
    Column("created_at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=True),
    Column("name", String(200), nullable=False),
    Column("hash", LargeBinary(32), nullable=False, unique=True),
    Column("permissions", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double, nullable=True),
    Column("revoked_at", Double, nullable=True),
    Index(None, "project_id"),
)

ingresses = Table(
    "ingresses",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("room", String(120), nullable=False),
    Column("room_name", String(120), nullable=False),
    Column("participant_identity", String(128), nullable=False),
    Column("participant_name", String(200), nullable=False),
    Column("stream_key", LargeBinary, nullable=False),  # sealed
    Column("stream_key_lookup", LargeBinary(32), nullable=False, unique=True),
    Column("password", LargeBinary, nullable=True),  # sealed
    Column("url", LargeBinary, nullable=True),  # sealed: it may hold a password
    Column("enable_transcoding", Boolean, nullable=False),
    Column("bypass_transcoding", Boolean, nullable=False),
    Column("takeover", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("error_code", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("started_at", Double, nullable=True),
    Column("ended_at", Double, nullable=True),
    Column("created_at", Double, nullable=False),
    Index(None, "project_id", "room"),
    Index(None, "project_id", "created_at"),
)
