"""Control plane: nodes, live streams, push targets, links, audit, the outbox and its deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("projects", sa.Column("limits", sa.JSON, nullable=True))
    op.add_column("projects", sa.Column("storage", sa.LargeBinary, nullable=True))
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("expires_at", sa.Double, nullable=True))
        keys.add_column(sa.Column("allowed_addresses", sa.JSON, nullable=True))
        keys.add_column(sa.Column("previous_hash", sa.LargeBinary(32), nullable=True))
        keys.add_column(sa.Column("previous_until", sa.Double, nullable=True))
        keys.create_unique_constraint("uq_api_keys_previous_hash", ["previous_hash"])
    op.add_column("ingresses", sa.Column("disabled_at", sa.Double, nullable=True))
    op.add_column("ingresses", sa.Column("node_id", sa.String(32), nullable=True))
    op.add_column("ingresses", sa.Column("door", sa.String(16), nullable=True))
    op.add_column("ingresses", sa.Column("lost_at", sa.Double, nullable=True))
    op.add_column("ingresses", sa.Column("tracks", sa.JSON, nullable=True))
    _create()


def _create() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "presences",
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("identity", sa.String(128), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("door", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("lost_at", sa.Double, nullable=True),
        sa.Column("tracks", sa.JSON, nullable=True),
        sa.PrimaryKeyConstraint("node_id", "project_id", "room", "identity", name="pk_presences"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_presences_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_presences_project_id", "presences", ["project_id"])
    op.create_table(
        "live_streams",
        sa.Column("ingress_id", sa.String(32), nullable=False),
        sa.Column("reconnect_window", sa.Double, nullable=False),
        sa.Column("max_duration", sa.Double, nullable=False),
        sa.Column("max_resolution", sa.String(8), nullable=False),
        sa.Column("audio_only", sa.Boolean, nullable=False),
        sa.Column("latency_mode", sa.String(16), nullable=False),
        sa.Column("enable_recording", sa.Boolean, nullable=False),
        sa.Column("enable_dvr", sa.Boolean, nullable=False),
        sa.Column("media_policy", sa.String(16), nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("test", sa.Boolean, nullable=False),
        sa.Column("srt_secret", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("ingress_id", name="pk_live_streams"),
        sa.ForeignKeyConstraint(["ingress_id"], ["ingresses.id"], name="fk_live_streams_ingress_id_ingresses", ondelete="CASCADE"),
    )
    op.create_table(
        "playback_ids",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("ingress_id", sa.String(32), nullable=False),
        sa.Column("access_policy", sa.String(16), nullable=False),
        sa.Column("restrictions", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_playback_ids"),
        sa.ForeignKeyConstraint(["ingress_id"], ["ingresses.id"], name="fk_playback_ids_ingress_id_ingresses", ondelete="CASCADE"),
    )
    op.create_index("ix_playback_ids_ingress_id", "playback_ids", ["ingress_id"])
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_signing_keys"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_signing_keys_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_signing_keys_project_id", "signing_keys", ["project_id"])
    op.create_table(
        "push_targets",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("ingress_id", sa.String(32), nullable=True),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("url", sa.LargeBinary, nullable=False),
        sa.Column("stream_key", sa.LargeBinary, nullable=True),
        sa.Column("alternate_url", sa.LargeBinary, nullable=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("node_id", sa.String(32), nullable=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_push_targets"),
        sa.ForeignKeyConstraint(["ingress_id"], ["ingresses.id"], name="fk_push_targets_ingress_id_ingresses", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_push_targets_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_push_targets_ingress_id", "push_targets", ["ingress_id"])
    op.create_index("ix_push_targets_project_id_room", "push_targets", ["project_id", "room"])
    op.create_table(
        "view_links",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("identity", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_view_links"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_view_links_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_view_links_expires_at", "view_links", ["expires_at"])
    op.create_index("ix_view_links_project_id_created_at", "view_links", ["project_id", "created_at"])
    op.create_table(
        "revoked_tokens",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("jti", sa.String(128), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "jti", name="pk_revoked_tokens"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_revoked_tokens_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_revoked_tokens_expires_at", "revoked_tokens", ["expires_at"])
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("project_id", sa.String(32), nullable=True),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(160), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_project_id_id", "audit", ["project_id", "id"])
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("url", sa.LargeBinary, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("profile", sa.String(16), nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=True),
        sa.Column("previous_secret", sa.LargeBinary, nullable=True),
        sa.Column("previous_until", sa.Double, nullable=True),
        sa.Column("headers", sa.LargeBinary, nullable=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("probe_status", sa.Integer, nullable=True),
        sa.Column("probe_error", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_webhook_endpoints_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_webhook_endpoints_project_id", "webhook_endpoints", ["project_id"])
    op.create_table(
        "events",
        sa.Column("cursor", SERIAL, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=True),
        sa.Column("stream", sa.String(160), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("origin", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("cursor", name="pk_events"),
        sa.UniqueConstraint("id", name="uq_events_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_events_project_id_projects", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_project_id_cursor", "events", ["project_id", "cursor"])
    op.create_table(
        "deliveries",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("endpoint_id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("stream", sa.String(160), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("done_at", sa.Double, nullable=True),
        sa.Column("replay_of", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name="fk_deliveries_endpoint_id_webhook_endpoints", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_done_at", "deliveries", ["done_at"])
    op.create_index("ix_deliveries_endpoint_id_id", "deliveries", ["endpoint_id", "id"])
    op.create_index("ix_deliveries_endpoint_id_stream_state_id", "deliveries", ["endpoint_id", "stream", "state", "id"])
    op.create_index("ix_deliveries_project_id_id", "deliveries", ["project_id", "id"])
    replayed = sa.text("replay_of IS NOT NULL")
    pending = sa.text("state = 'pending'")
    op.create_index("ix_deliveries_pending", "deliveries", ["created_at"], sqlite_where=pending, postgresql_where=pending)
    op.create_index("ix_deliveries_replay_of", "deliveries", ["replay_of"], sqlite_where=replayed, postgresql_where=replayed)
    op.create_table(
        "delivery_lanes",
        sa.Column("endpoint_id", sa.String(32), nullable=False),
        sa.Column("stream", sa.String(160), nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(64), nullable=True),
        sa.Column("lease_until", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("endpoint_id", "stream", name="pk_delivery_lanes"),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name="fk_delivery_lanes_endpoint_id_webhook_endpoints", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_delivery_lanes_endpoint_id_next_at", "delivery_lanes", ["endpoint_id", "next_at"])
    op.create_index("ix_delivery_lanes_next_at", "delivery_lanes", ["next_at"])
    op.create_index("ix_delivery_lanes_owner", "delivery_lanes", ["owner"])
    op.create_table(
        "delivery_attempts",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("delivery_id", SERIAL, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("latency", sa.Double, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("excerpt", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_delivery_attempts"),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name="fk_delivery_attempts_delivery_id_deliveries", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_delivery_attempts_delivery_id_id", "delivery_attempts", ["delivery_id", "id"])


def downgrade() -> None:
    for table in (
        "delivery_attempts",
        "delivery_lanes",
        "deliveries",
        "events",
        "webhook_endpoints",
        "audit",
        "revoked_tokens",
        "view_links",
        "push_targets",
        "signing_keys",
        "playback_ids",
        "live_streams",
        "presences",
        "nodes",
    ):
        op.drop_table(table)
    with op.batch_alter_table("ingresses") as ingresses:
        ingresses.drop_column("tracks")
        ingresses.drop_column("lost_at")
        ingresses.drop_column("door")
        ingresses.drop_column("node_id")
        ingresses.drop_column("disabled_at")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_constraint("uq_api_keys_previous_hash", type_="unique")
        for name in ("previous_until", "previous_hash", "allowed_addresses", "expires_at"):
            keys.drop_column(name)
    with op.batch_alter_table("projects") as projects:
        projects.drop_column("storage")
        projects.drop_column("limits")
