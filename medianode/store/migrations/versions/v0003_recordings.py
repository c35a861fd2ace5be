"""Recordings, their files, and uploads of these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("projects", sa.Column("recording", sa.JSON, nullable=True))
    op.add_column("ingresses", sa.Column("record", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("ingresses", sa.Column("pull", sa.JSON, nullable=True))
    with op.batch_alter_table("settings") as settings:
        settings.alter_column("key", existing_type=sa.String(64), existing_nullable=False, type_=sa.String(200))
    _create()
    _create_sources()


def _create() -> None:
    op.create_table(
        "recordings",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("identity", sa.String(128), nullable=False),
        sa.Column("ingress_id", sa.String(32), nullable=True),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("directory", sa.Text, nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("media_id", sa.String(36), nullable=True),
        sa.Column("playback_id", sa.String(36), nullable=True),
        sa.Column("access_policy", sa.String(16), nullable=False),
        sa.Column("upload_state", sa.String(16), nullable=False),
        sa.Column("upload_error", sa.Text, nullable=False),
        sa.Column("remote_url", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_recordings"),
        sa.UniqueConstraint("playback_id", name="uq_recordings_playback_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_recordings_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_recordings_ingress_id", "recordings", ["ingress_id"])
    op.create_index("ix_recordings_media_id", "recordings", ["media_id"])
    op.create_index("ix_recordings_project_id_room_started_at", "recordings", ["project_id", "room", "started_at"])
    op.create_index("ix_recordings_project_id_started_at", "recordings", ["project_id", "started_at"])
    op.create_index("ix_recordings_state", "recordings", ["state"])
    op.create_table(
        "recording_files",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("recording_id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("init_bytes", sa.Integer, nullable=False),
        sa.Column("tracks", sa.JSON, nullable=False),
        sa.Column("gap", sa.String(32), nullable=False),
        sa.Column("sha256", sa.LargeBinary(32), nullable=True),
        sa.Column("remote_key", sa.Text, nullable=False),
        sa.Column("uploaded_at", sa.Double, nullable=True),
        sa.Column("parts", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_recording_files"),
        sa.ForeignKeyConstraint(["recording_id"], ["recordings.id"], name="fk_recording_files_recording_id_recordings", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_recording_files_project_id_started_at", "recording_files", ["project_id", "started_at"])
    op.create_index("ix_recording_files_recording_id_sequence", "recording_files", ["recording_id", "sequence"], unique=True)
    op.create_index("ix_recording_files_timeline", "recording_files", ["recording_id", "started_at", "duration", "state"])
    some = sa.text("gap <> ''")
    op.create_index("ix_recording_files_gaps", "recording_files", ["recording_id", "started_at"], sqlite_where=some, postgresql_where=some)
    op.create_index("ix_recording_files_state_started_at", "recording_files", ["state", "started_at"])
    op.create_table(
        "discards",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_discards"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_discards_node_id", "discards", ["node_id"])
    op.create_table(
        "object_discards",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("recording_id", sa.String(32), nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("upload_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_object_discards"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_object_discards_project_id_projects", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_object_discards_node_id", "object_discards", ["node_id"])
    op.create_table(
        "uploads",
        sa.Column("file_id", SERIAL, nullable=False, autoincrement=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("bucket", sa.String(64), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("upload_id", sa.Text, nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("file_id", name="pk_uploads"),
        sa.ForeignKeyConstraint(["file_id"], ["recording_files.id"], name="fk_uploads_file_id_recording_files", ondelete="CASCADE"),
    )
    op.create_index("ix_uploads_node_id_next_at", "uploads", ["node_id", "next_at"])


def _create_sources() -> None:
    op.create_table(
        "pulls",
        sa.Column("ingress_id", sa.String(32), nullable=False),
        sa.Column("node_id", sa.String(32), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("transport", sa.String(16), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("ingress_id", name="pk_pulls"),
        sa.ForeignKeyConstraint(["ingress_id"], ["ingresses.id"], name="fk_pulls_ingress_id_ingresses", ondelete="CASCADE"),
    )
    op.create_index("ix_pulls_node_id", "pulls", ["node_id"])
    op.create_table(
        "fallbacks",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("slate", sa.String(16), nullable=False),
        sa.Column("text", sa.String(200), nullable=False),
        sa.Column("media", sa.LargeBinary, nullable=True),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("always", sa.Boolean, nullable=False),
        sa.Column("backup", sa.String(32), nullable=True),
        sa.Column("frozen", sa.Double, nullable=False),
        sa.Column("patience", sa.Double, nullable=False),
        sa.Column("version", sa.String(16), nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "room", name="pk_fallbacks"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_fallbacks_project_id_projects", ondelete="CASCADE"),
    )


def downgrade() -> None:
    for table in ("fallbacks", "pulls", "uploads", "object_discards", "discards", "recording_files", "recordings"):
        op.drop_table(table)
    op.execute("DELETE FROM settings WHERE length(key) > 64")
    with op.batch_alter_table("settings") as settings:
        settings.alter_column("key", existing_type=sa.String(200), existing_nullable=False, type_=sa.String(64))
    with op.batch_alter_table("ingresses") as ingresses:
        ingresses.drop_column("pull")
        ingresses.drop_column("record")
    with op.batch_alter_table("projects") as projects:
        projects.drop_column("recording")
