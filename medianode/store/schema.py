"""The tables. A change here needs a migration under migrations/versions; a test holds the two equal on both databases.

Instants are `clock.wallclock()` (seconds since the epoch, UTC). `sealed` columns are `Secrets.seal`ed, `*_lookup` and `hash` are digests.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

Serial = BigInteger().with_variant(Integer, "sqlite")
"""Counts up and is never used twice: tables with it have `sqlite_autoincrement`, or SQLite would give the last number again."""

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
    Column("key", String(200), primary_key=True),  # the longest: an option's prefix, a project's id and the name of a room
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
    Column("limits", JSON, nullable=True),
    Column("storage", LargeBinary, nullable=True),  # sealed JSON: it may hold a secret key
    Column("recording", JSON, nullable=True),  # retention and upload of what is recorded
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
    Column("expires_at", Double, nullable=True),
    Column("allowed_addresses", JSON, nullable=True),
    Column("previous_hash", LargeBinary(32), nullable=True, unique=True),  # after a rotation, good until previous_until
    Column("previous_until", Double, nullable=True),
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
    Column("disabled_at", Double, nullable=True),
    Column("node_id", String(32), nullable=True),  # the node that last wrote its state, while that is BUFFERING or ACTIVE
    Column("door", String(16), nullable=True),  # what the encoder of the newest session came by
    Column("lost_at", Double, nullable=True),  # while the session waits for its encoder to come back
    Column("tracks", JSON, nullable=True),  # [kind, codec] each, of the newest session
    Column("record", Boolean, nullable=False, server_default=false()),
    Column("pull", JSON, nullable=True),  # how `url` is fetched; without secrets
    Index(None, "project_id", "room"),
    Index(None, "project_id", "created_at"),
)

# a daemon that shares the database; `seen_at` is renewed every few seconds while it lives
nodes = Table(
    "nodes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)

# who publishes without an ingress, and the rooms on air (`identity` empty), by the node that has them: what a crash leaves to be ended
presences = Table(
    "presences",
    metadata,
    Column("node_id", String(32), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("room", String(120), primary_key=True),
    Column("identity", String(128), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("door", String(16), nullable=False),
    Column("started_at", Double, nullable=True),
    Column("lost_at", Double, nullable=True),
    Column("tracks", JSON, nullable=True),
    Index(None, "project_id"),
)

# the broadcast policy that makes an ingress a live stream
live_streams = Table(
    "live_streams",
    metadata,
    Column("ingress_id", String(32), ForeignKey("ingresses.id", ondelete="CASCADE"), primary_key=True),
    Column("reconnect_window", Double, nullable=False),
    Column("max_duration", Double, nullable=False),
    Column("max_resolution", String(8), nullable=False),
    Column("audio_only", Boolean, nullable=False),
    Column("latency_mode", String(16), nullable=False),
    Column("enable_recording", Boolean, nullable=False),
    Column("enable_dvr", Boolean, nullable=False),
    Column("media_policy", String(16), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("srt_secret", LargeBinary, nullable=False),  # sealed
    Column("updated_at", Double, nullable=False),
)

playback_ids = Table(
    "playback_ids",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("ingress_id", String(32), ForeignKey("ingresses.id", ondelete="CASCADE"), nullable=False),
    Column("access_policy", String(16), nullable=False),
    Column("restrictions", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "ingress_id"),
)

# public halves only: the private one is shown once
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "project_id"),
)

push_targets = Table(
    "push_targets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("ingress_id", String(32), ForeignKey("ingresses.id", ondelete="CASCADE"), nullable=True),
    Column("room", String(120), nullable=False),
    Column("url", LargeBinary, nullable=False),  # sealed: it may hold a key
    Column("stream_key", LargeBinary, nullable=True),  # sealed
    Column("alternate_url", LargeBinary, nullable=True),  # sealed
    Column("enabled", Boolean, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("error_code", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("node_id", String(32), nullable=True),  # that sends to it; null while it is idle
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index(None, "project_id", "room"),
    Index(None, "ingress_id"),
)

# who fetches the URL of an ingress, and how that goes; there once a node has begun to
pulls = Table(
    "pulls",
    metadata,
    Column("ingress_id", String(32), ForeignKey("ingresses.id", ondelete="CASCADE"), primary_key=True),
    Column("node_id", String(32), nullable=True),  # that fetches it; null while nobody does
    Column("state", String(16), nullable=False),
    Column("error_code", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("transport", String(16), nullable=False),
    Column("since", Double, nullable=False),
    Index(None, "node_id"),
)

# what a room shows while its publisher is gone
fallbacks = Table(
    "fallbacks",
    metadata,
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("room", String(120), primary_key=True),
    Column("slate", String(16), nullable=False),  # none, text, image or clip
    Column("text", String(200), nullable=False),
    Column("media", LargeBinary, nullable=True),  # of an image or a clip
    Column("media_type", String(32), nullable=False),
    Column("always", Boolean, nullable=False),
    Column("backup", String(32), nullable=True),  # an ingress of the room
    Column("frozen", Double, nullable=False),
    Column("patience", Double, nullable=False),
    Column("version", String(16), nullable=False),  # another with each change of the slate
    Column("updated_at", Double, nullable=False),
)

view_links = Table(
    "view_links",
    metadata,
    Column("id", String(32), primary_key=True),  # the `jti` of its token
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("room", String(120), nullable=False),
    Column("identity", String(128), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("revoked_at", Double, nullable=True),
    Index(None, "project_id", "created_at"),
    Index(None, "expires_at"),
)

# tokens that were revoked before they expired, by their `jti`; kept until they would have expired
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("jti", String(128), primary_key=True),
    Column("expires_at", Double, nullable=False),
    Column("revoked_at", Double, nullable=False),
    Index(None, "expires_at"),
)

# no foreign keys: what was done outlives whom it was done to
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("at", Double, nullable=False),
    Column("project_id", String(32), nullable=True),
    Column("actor", String(64), nullable=False),
    Column("source", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(160), nullable=False),
    Column("details", JSON, nullable=False),
    Index(None, "project_id", "id"),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("url", LargeBinary, nullable=False),  # sealed: it may hold a token
    Column("events", JSON, nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("profile", String(16), nullable=False),
    Column("secret", LargeBinary, nullable=True),  # sealed
    Column("previous_secret", LargeBinary, nullable=True),  # sealed; good until previous_until
    Column("previous_until", Double, nullable=True),
    Column("headers", LargeBinary, nullable=True),  # sealed JSON
    Column("enabled", Boolean, nullable=False),
    Column("probe_status", Integer, nullable=True),
    Column("probe_error", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index(None, "project_id"),
)

# the outbox: every fact, in the order that it was committed in
events = Table(
    "events",
    metadata,
    Column("cursor", Serial, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=True),
    Column("stream", String(160), nullable=False),
    Column("type", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("data", JSON, nullable=False),
    Column("origin", String(32), nullable=False),  # the process that wrote it: others follow what it did
    Index(None, "project_id", "cursor"),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

# one event for one endpoint, in its words
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("endpoint_id", String(32), ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("project_id", String(32), nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("cursor", BigInteger, nullable=False),  # of its event; 0 for a test
    Column("stream", String(160), nullable=False),
    Column("type", String(64), nullable=False),  # the dialect's word
    Column("body", LargeBinary, nullable=False),  # sealed: payloads show stream keys. Frozen: these bytes are signed and sent
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer, nullable=True),
    Column("error", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("done_at", Double, nullable=True),
    Column("replay_of", BigInteger, nullable=True),  # the delivery that this one repeats
    Index(None, "endpoint_id", "stream", "state", "id"),
    Index(None, "endpoint_id", "id"),
    Index(None, "project_id", "id"),
    Index(None, "done_at"),
    Index("ix_deliveries_pending", "created_at", sqlite_where=text("state = 'pending'"), postgresql_where=text("state = 'pending'")),
    Index(
        "ix_deliveries_replay_of", "replay_of", sqlite_where=text("replay_of IS NOT NULL"), postgresql_where=text("replay_of IS NOT NULL")
    ),
    sqlite_autoincrement=True,
)

# order is kept in a lane: what is pending for one endpoint and one stream. There is a row while something is
delivery_lanes = Table(
    "delivery_lanes",
    metadata,
    Column("endpoint_id", String(32), ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("stream", String(160), primary_key=True),
    Column("next_at", Double, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("owner", String(64), nullable=True),
    Column("lease_until", Double, nullable=True),
    Index(None, "endpoint_id", "next_at"),
    Index(None, "next_at"),
    Index(None, "owner"),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("delivery_id", Serial, ForeignKey("deliveries.id", ondelete="CASCADE"), nullable=False),
    Column("at", Double, nullable=False),
    Column("status", Integer, nullable=True),
    Column("latency", Double, nullable=False),
    Column("error", Text, nullable=False),
    Column("excerpt", Text, nullable=False),
    Index(None, "delivery_id", "id"),
    sqlite_autoincrement=True,
)

# no foreign key to the ingress: what was recorded outlives it
recordings = Table(
    "recordings",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("room", String(120), nullable=False),
    Column("identity", String(128), nullable=False),  # empty: the room's programme
    Column("ingress_id", String(32), nullable=True),
    Column("reason", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("node_id", String(32), nullable=False),
    Column("directory", Text, nullable=False),
    Column("title", String(200), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=True),
    Column("duration", BigInteger, nullable=False),  # microseconds of media, gaps not counted
    Column("nbytes", BigInteger, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("error_code", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("media_id", String(36), nullable=True),  # FastPix's name for the asset
    Column("playback_id", String(36), nullable=True, unique=True),
    Column("access_policy", String(16), nullable=False),
    Column("upload_state", String(16), nullable=False),
    Column("upload_error", Text, nullable=False),
    Column("remote_url", Text, nullable=False),
    Index(None, "project_id", "room", "started_at"),
    Index(None, "project_id", "started_at"),
    Index(None, "ingress_id"),
    Index(None, "media_id"),
    Index(None, "state"),
)

recording_files = Table(
    "recording_files",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("recording_id", String(32), ForeignKey("recordings.id", ondelete="CASCADE"), nullable=False),
    Column("project_id", String(32), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("start", BigInteger, nullable=False),  # microseconds on the recording's timeline
    Column("duration", BigInteger, nullable=False),  # microseconds
    Column("nbytes", BigInteger, nullable=False),
    Column("init_bytes", Integer, nullable=False),
    Column("tracks", JSON, nullable=False),
    Column("gap", String(32), nullable=False),  # why the timeline breaks before it, or empty
    Column("sha256", LargeBinary(32), nullable=True),
    Column("remote_key", Text, nullable=False),  # where it is in the bucket, or empty
    Column("uploaded_at", Double, nullable=True),
    # media.parts.pack; null while it is open. The last column, for SQLite reads a row up to the one that it needs
    Column("parts", LargeBinary, nullable=True),
    Index(None, "recording_id", "sequence", unique=True),
    Index("ix_recording_files_timeline", "recording_id", "started_at", "duration", "state"),
    Index("ix_recording_files_gaps", "recording_id", "started_at", sqlite_where=text("gap <> ''"), postgresql_where=text("gap <> ''")),
    Index(None, "state", "started_at"),
    Index(None, "project_id", "started_at"),
    sqlite_autoincrement=True,
)

# what no row tells of any more and is still to be unlinked: a file, or a recording's directory
discards = Table(
    "discards",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("node_id", String(32), nullable=False),
    Column("path", Text, nullable=False),
    Index(None, "node_id"),
    sqlite_autoincrement=True,
)

# the same of what is in a project's bucket; with an upload_id a multipart upload that had begun
object_discards = Table(
    "object_discards",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("node_id", String(32), nullable=False),
    Column("project_id", String(32), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("recording_id", String(32), nullable=False),
    Column("bucket", Text, nullable=False),  # its address
    Column("key", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Index(None, "node_id"),
    sqlite_autoincrement=True,
)

# a file on its way to a bucket; gone once it is there
uploads = Table(
    "uploads",
    metadata,
    Column("file_id", Serial, ForeignKey("recording_files.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("project_id", String(32), nullable=False),
    Column("node_id", String(32), nullable=False),
    Column("bucket", String(64), nullable=False),
    Column("key", Text, nullable=False),
    Column("upload_id", Text, nullable=False),  # of a multipart upload that has begun, or empty
    Column("parts", JSON, nullable=False),  # number, etag, sha256 of each that is there
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "node_id", "next_at"),
)
