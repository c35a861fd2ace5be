"""Projects, API keys, ingresses, settings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "settings",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_settings"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("viewing", sa.String(16), nullable=False),
        sa.Column("open_publish", sa.Boolean, nullable=False),
        sa.Column("jwt_key_id", sa.String(64), nullable=False),
        sa.Column("jwt_secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("slug", name="uq_projects_slug"),
        sa.UniqueConstraint("jwt_key_id", name="uq_projects_jwt_key_id"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("permissions", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_used_at", sa.Double, nullable=True),
        sa.Column("revoked_at", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_api_keys_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project_id"])
    op.create_table(
        "ingresses",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("room", sa.String(120), nullable=False),
        sa.Column("room_name", sa.String(120), nullable=False),
        sa.Column("participant_identity", sa.String(128), nullable=False),
        sa.Column("participant_name", sa.String(200), nullable=False),
        sa.Column("stream_key", sa.LargeBinary, nullable=False),
        sa.Column("stream_key_lookup", sa.LargeBinary(32), nullable=False),
        sa.Column("password", sa.LargeBinary, nullable=True),
        sa.Column("url", sa.LargeBinary, nullable=True),
        sa.Column("enable_transcoding", sa.Boolean, nullable=False),
        sa.Column("bypass_transcoding", sa.Boolean, nullable=False),
        sa.Column("takeover", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ingresses"),
        sa.UniqueConstraint("stream_key_lookup", name="uq_ingresses_stream_key_lookup"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_ingresses_project_id_projects", ondelete="CASCADE"),
    )
    op.create_index("ix_ingresses_project_id_room", "ingresses", ["project_id", "room"])
    op.create_index("ix_ingresses_project_id_created_at", "ingresses", ["project_id", "created_at"])


def downgrade() -> None:
    for table in ("ingresses", "api_keys", "projects", "settings"):
        op.drop_table(table)
