"""The whole catalog: assets, spaces, provenance, consent, releases, audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# frozen copies of the column types: a migration means for ever what it meant when it was written
BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.String()
NUMBER = sa.Double()
HEX = sa.String(64)
UUID = sa.String(36)
SALT = sa.String(32)

GENESIS = "0" * 64
APPEND_ONLY = ("event", "checkpoint")

SQLITE_TRIGGERS = (
    *(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for table in APPEND_ONLY
        for verb in ("UPDATE", "DELETE")
    ),
    "CREATE TRIGGER event_in_sequence BEFORE INSERT ON event "
    "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event) "
    "BEGIN SELECT RAISE(ABORT, 'event out of sequence'); END",
    "CREATE TRIGGER checkpoint_no_replace BEFORE INSERT ON checkpoint "
    "WHEN EXISTS (SELECT 1 FROM checkpoint WHERE id = NEW.id) "
    "BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END",
)

POSTGRESQL_TRIGGERS = (
    "CREATE FUNCTION w2w_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END; $$",
    *(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION w2w_append_only()"
        for table in APPEND_ONLY
    ),
    "CREATE FUNCTION w2w_event_in_sequence() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event) THEN "
    "RAISE EXCEPTION 'event out of sequence'; END IF; RETURN NEW; END; $$",
    "CREATE TRIGGER event_in_sequence BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION w2w_event_in_sequence()",
)


def _choice(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=20)


def upgrade() -> None:
    _tables()
    op.execute(sa.text("INSERT INTO chain_head (id, seq, hash) VALUES (1, 0, :hash)").bindparams(hash=GENESIS))
    postgresql = op.get_bind().dialect.name == "postgresql"
    for statement in POSTGRESQL_TRIGGERS if postgresql else SQLITE_TRIGGERS:
        op.get_bind().exec_driver_sql(statement.replace("%", "%%") if postgresql else statement)


def downgrade() -> None:
    # dropping a table drops its triggers
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION w2w_append_only()")
        op.execute("DROP FUNCTION w2w_event_in_sequence()")


TABLES = (
    "chain_head",
    "checkpoint",
    "event",
    "identity",
    "job",
    "operation",
    "subject",
    "consent_record",
    "space",
    "tag",
    "withdrawal",
    "consent_event",
    "direction",
    "guard_reference",
    "version",
    "alias",
    "alias_change",
    "coordinates",
    "label",
    "operation_input",
    "release",
    "source_file",
    "space_member",
    "version_subject",
    "takedown",
)


def _tables() -> None:
    op.create_table(
        "chain_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", BIGINT, nullable=False),
        sa.Column("hash", HEX, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_chain_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_head")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("root", HEX, nullable=False),
        sa.Column("note", WORDS, nullable=False),
        sa.Column("public_key_id", WORDS, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "event",
        sa.Column("seq", BIGINT, autoincrement=False, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", WORDS, nullable=False),
        sa.Column("action", WORDS, nullable=False),
        sa.Column("objects", JSON, nullable=False),
        sa.Column("changes", JSON, nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("prev_hash", HEX, nullable=False),
        sa.Column("hash", HEX, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        sa.UniqueConstraint("hash", name=op.f("uq_event_hash")),
    )
    op.create_index("ix_event_action", "event", ["action"], unique=False)
    op.create_index("ix_event_at", "event", ["at"], unique=False)
    op.create_table(
        "identity",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column(
            "kind", _choice("kind", "person", "product", "style", "animal", "character", "other"), nullable=False
        ),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("removed", MOMENT, nullable=True),
        sa.Column("salt", SALT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity")),
        sa.UniqueConstraint("name", name=op.f("uq_identity_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job",
        sa.Column("id", UUID, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("state", JSON, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_kind"), "job", ["kind"], unique=False)
    op.create_table(
        "operation",
        sa.Column("id", UUID, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("agent", WORDS, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("params", JSON, nullable=False),
        sa.Column("seed", BIGINT, nullable=True),
        sa.Column("code_version", WORDS, nullable=False),
        sa.Column("models", JSON, nullable=False),
        sa.Column("salt", SALT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation")),
    )
    op.create_table(
        "subject",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("state", _choice("state", "active", "withdrawn", "protected", "erased"), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("erased", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subject")),
    )
    op.create_table(
        "consent_record",
        sa.Column("id", UUID, nullable=False),
        sa.Column("subject_id", WORDS, nullable=False),
        sa.Column("supersedes", UUID, nullable=True),
        sa.Column(
            "state",
            _choice("state", "granted", "unknown", "requested", "expired", "withdrawn", "invalidated", "not-needed"),
            nullable=False,
        ),
        sa.Column("schema_version", WORDS, nullable=False),
        sa.Column("notice", WORDS, nullable=True),
        sa.Column("language", WORDS, nullable=True),
        sa.Column("purposes", JSON, nullable=False),
        sa.Column("data_types", JSON, nullable=True),
        sa.Column("controllers", JSON, nullable=True),
        sa.Column("recipients", JSON, nullable=True),
        sa.Column("storage_location", WORDS, nullable=True),
        sa.Column("retention", WORDS, nullable=True),
        sa.Column("jurisdiction", WORDS, nullable=True),
        sa.Column("withdrawal_method", WORDS, nullable=True),
        sa.Column("derivatives", sa.Boolean(), nullable=False),
        sa.Column("publication", sa.Boolean(), nullable=False),
        sa.Column("territories", JSON, nullable=True),
        sa.Column("allowed_uses", JSON, nullable=True),
        sa.Column("forbidden_uses", JSON, nullable=True),
        sa.Column("guardian", WORDS, nullable=True),
        sa.Column("compensation", WORDS, nullable=True),
        sa.Column("training_set_digest", HEX, nullable=True),
        sa.Column("evidence_digest", HEX, nullable=True),
        sa.Column("evidence_stored", sa.Boolean(), nullable=False),
        sa.Column("signature", WORDS, nullable=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("granted_at", MOMENT, nullable=True),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_consent_record_subject_id_subject")),
        sa.ForeignKeyConstraint(
            ["supersedes"], ["consent_record.id"], name=op.f("fk_consent_record_supersedes_consent_record")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent_record")),
    )
    op.create_index("ix_consent_record_expires_at", "consent_record", ["expires_at"], unique=False)
    op.create_index("ix_consent_record_subject_id", "consent_record", ["subject_id"], unique=False)
    op.create_table(
        "space",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("base_model", WORDS, nullable=False),
        sa.Column("base_revision", WORDS, nullable=True),
        sa.Column("layout_digest", HEX, nullable=False),
        sa.Column("layout", JSON, nullable=False),
        sa.Column("dim", BIGINT, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("alpha", NUMBER, nullable=False),
        sa.Column("components", sa.Integer(), nullable=False),
        sa.Column("artifact_digest", HEX, nullable=False),
        sa.Column("fit_set_digest", HEX, nullable=True),
        sa.Column("fit_size", sa.Integer(), nullable=True),
        sa.Column("metric", JSON, nullable=False),
        sa.Column("calibration", JSON, nullable=False),
        sa.Column("explained_variance", JSON, nullable=True),
        sa.Column("software", JSON, nullable=False),
        sa.Column("state", _choice("state", "active", "retired"), nullable=False),
        sa.Column("parent_id", BIGINT, nullable=True),
        sa.Column("operation_id", UUID, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["operation_id"], ["operation.id"], name=op.f("fk_space_operation_id_operation")),
        sa.ForeignKeyConstraint(["parent_id"], ["space.id"], name=op.f("fk_space_parent_id_space")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space")),
        sa.UniqueConstraint("digest", name=op.f("uq_space_digest")),
        sa.UniqueConstraint("name", "number", name=op.f("uq_space_name_number")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_space_layout_digest"), "space", ["layout_digest"], unique=False)
    op.create_table(
        "tag",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("identity_id", BIGINT, nullable=False),
        sa.Column("key", WORDS, nullable=False),
        sa.Column("value", WORDS, nullable=False),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identity.id"], name=op.f("fk_tag_identity_id_identity")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tag")),
        sa.UniqueConstraint("identity_id", "key", name=op.f("uq_tag_identity_id_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "withdrawal",
        sa.Column("id", UUID, nullable=False),
        sa.Column("subject_id", WORDS, nullable=False),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("erase", sa.Boolean(), nullable=False),
        sa.Column("phase", WORDS, nullable=False),
        sa.Column("started", MOMENT, nullable=False),
        sa.Column("finished", MOMENT, nullable=True),
        sa.Column("receipt", JSON, nullable=True),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_withdrawal_subject_id_subject")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_withdrawal")),
    )
    op.create_index("ix_withdrawal_subject_id", "withdrawal", ["subject_id"], unique=False)
    op.create_table(
        "consent_event",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("record_id", UUID, nullable=True),
        sa.Column("subject_id", WORDS, nullable=False),
        sa.Column(
            "type",
            _choice(
                "type",
                "request",
                "grant",
                "narrow",
                "renew",
                "expire",
                "withdraw",
                "invalidate",
                "receipt",
                "access",
                "dispute",
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            _choice("state", "granted", "unknown", "requested", "expired", "withdrawn", "invalidated", "not-needed"),
            nullable=True,
        ),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("duration", WORDS, nullable=True),
        sa.Column("entity", WORDS, nullable=False),
        sa.Column("method", WORDS, nullable=True),
        sa.Column("details", JSON, nullable=False),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(
            ["record_id"], ["consent_record.id"], name=op.f("fk_consent_event_record_id_consent_record")
        ),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_consent_event_subject_id_subject")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent_event")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_consent_event_record_id", "consent_event", ["record_id"], unique=False)
    op.create_index("ix_consent_event_subject_id", "consent_event", ["subject_id"], unique=False)
    op.create_table(
        "direction",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("attribute", WORDS, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("method", WORDS, nullable=False),
        sa.Column("calibration", JSON, nullable=False),
        sa.Column("quality", JSON, nullable=False),
        sa.Column("leakage", JSON, nullable=False),
        sa.Column("operation_id", UUID, nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["operation_id"], ["operation.id"], name=op.f("fk_direction_operation_id_operation")),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_direction_space_id_space")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_direction")),
        sa.UniqueConstraint("space_id", "name", name=op.f("uq_direction_space_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_direction_digest"), "direction", ["digest"], unique=False)
    op.create_table(
        "guard_reference",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("subject_id", WORDS, nullable=False),
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("reference", sa.LargeBinary(), nullable=False),
        sa.Column("threshold", NUMBER, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_guard_reference_space_id_space")),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_guard_reference_subject_id_subject")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guard_reference")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_guard_reference_space_id", "guard_reference", ["space_id"], unique=False)
    op.create_index("ix_guard_reference_subject_id", "guard_reference", ["subject_id"], unique=False)
    op.create_table(
        "version",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("identity_id", BIGINT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model_digest", HEX, nullable=False),
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("operation_id", UUID, nullable=False),
        sa.Column("state", _choice("state", "active", "blocked", "removed", "erased"), nullable=False),
        sa.Column("residual", NUMBER, nullable=True),
        sa.Column("base_model", WORDS, nullable=False),
        sa.Column("base_revision", WORDS, nullable=True),
        sa.Column("manifest_digest", HEX, nullable=True),
        sa.Column("artifact_digest", HEX, nullable=True),
        sa.Column("preview_digest", HEX, nullable=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("changed_seq", BIGINT, nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identity.id"], name=op.f("fk_version_identity_id_identity")),
        sa.ForeignKeyConstraint(["operation_id"], ["operation.id"], name=op.f("fk_version_operation_id_operation")),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_version_space_id_space")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version")),
        sa.UniqueConstraint("identity_id", "number", name=op.f("uq_version_identity_id_number")),
        sa.UniqueConstraint("operation_id", name=op.f("uq_version_operation_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_version_changed_seq", "version", ["changed_seq"], unique=False)
    op.create_index("ix_version_model_digest", "version", ["model_digest"], unique=False)
    op.create_table(
        "alias",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("identity_id", BIGINT, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identity.id"], name=op.f("fk_alias_identity_id_identity")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_alias_version_id_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias")),
        sa.UniqueConstraint("identity_id", "name", name=op.f("uq_alias_identity_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alias_version_id", "alias", ["version_id"], unique=False)
    op.create_table(
        "alias_change",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("identity_id", BIGINT, nullable=False),
        sa.Column("alias", WORDS, nullable=False),
        sa.Column("version_id", BIGINT, nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identity.id"], name=op.f("fk_alias_change_identity_id_identity")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_alias_change_version_id_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_change")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_alias_change_identity_id_alias_at", "alias_change", ["identity_id", "alias", "at"], unique=False
    )
    op.create_table(
        "coordinates",
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_coordinates_space_id_space")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_coordinates_version_id_version")),
        sa.PrimaryKeyConstraint("space_id", "version_id", name=op.f("pk_coordinates")),
    )
    op.create_index("ix_coordinates_version_id", "coordinates", ["version_id"], unique=False)
    op.create_table(
        "label",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("number", NUMBER, nullable=True),
        sa.Column("text", WORDS, nullable=True),
        sa.Column("salt", SALT, nullable=False),
        sa.CheckConstraint("(number IS NULL) <> (text IS NULL)", name=op.f("ck_label_one_value")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_label_version_id_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
        sa.UniqueConstraint("version_id", "name", name=op.f("uq_label_version_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "operation_input",
        sa.Column("operation_id", UUID, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("role", WORDS, nullable=False),
        sa.Column("kind", _choice("kind", "version", "file", "photo", "space", "direction", "hub"), nullable=False),
        sa.Column("version_id", BIGINT, nullable=True),
        sa.Column("digest", HEX, nullable=True),
        sa.Column("ref", WORDS, nullable=True),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operation.id"], name=op.f("fk_operation_input_operation_id_operation")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_operation_input_version_id_version")),
        sa.PrimaryKeyConstraint("operation_id", "position", name=op.f("pk_operation_input")),
    )
    op.create_index("ix_operation_input_digest", "operation_input", ["digest"], unique=False)
    op.create_index(
        "ix_operation_input_version_id_operation_id", "operation_input", ["version_id", "operation_id"], unique=False
    )
    op.create_table(
        "release",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=True),
        sa.Column("space_id", BIGINT, nullable=True),
        sa.Column("endpoint", WORDS, nullable=False),
        sa.Column("repo_id", WORDS, nullable=False),
        sa.Column("commit_id", WORDS, nullable=False),
        sa.Column("revision", WORDS, nullable=False),
        sa.Column("visibility", WORDS, nullable=False),
        sa.Column("gated", WORDS, nullable=False),
        sa.Column("format", WORDS, nullable=False),
        sa.Column("digests", JSON, nullable=False),
        sa.Column(
            "state", _choice("state", "published", "takedown-queued", "gated", "hidden", "deleted"), nullable=False
        ),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("checked_at", MOMENT, nullable=True),
        sa.CheckConstraint("(version_id IS NULL) <> (space_id IS NULL)", name=op.f("ck_release_one_thing")),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_release_space_id_space")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_release_version_id_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_release_repo_id", "release", ["repo_id"], unique=False)
    op.create_index("ix_release_space_id", "release", ["space_id"], unique=False)
    op.create_index("ix_release_version_id", "release", ["version_id"], unique=False)
    op.create_table(
        "source_file",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("sha256", HEX, nullable=False),
        sa.Column("model_digest", HEX, nullable=False),
        sa.Column("format", WORDS, nullable=False),
        sa.Column("dtype", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("size", BIGINT, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_source_file_version_id_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_file")),
        sa.UniqueConstraint("version_id", "sha256", name=op.f("uq_source_file_version_id_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_source_file_model_digest", "source_file", ["model_digest"], unique=False)
    op.create_index("ix_source_file_sha256", "source_file", ["sha256"], unique=False)
    op.create_table(
        "space_member",
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_digest", HEX, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("subject_id", WORDS, nullable=True),
        sa.Column("version_id", BIGINT, nullable=True),
        sa.Column("salt", SALT, nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_space_member_space_id_space")),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_space_member_subject_id_subject")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_space_member_version_id_version")),
        sa.PrimaryKeyConstraint("space_id", "position", name=op.f("pk_space_member")),
    )
    op.create_index("ix_space_member_model_digest", "space_member", ["model_digest"], unique=False)
    op.create_index("ix_space_member_subject_id", "space_member", ["subject_id"], unique=False)
    op.create_index("ix_space_member_version_id", "space_member", ["version_id"], unique=False)
    op.create_table(
        "version_subject",
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("subject_id", WORDS, nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name=op.f("fk_version_subject_subject_id_subject")),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name=op.f("fk_version_subject_version_id_version")),
        sa.PrimaryKeyConstraint("version_id", "subject_id", name=op.f("pk_version_subject")),
    )
    op.create_index("ix_version_subject_subject_id", "version_subject", ["subject_id"], unique=False)
    op.create_table(
        "takedown",
        sa.Column("id", UUID, nullable=False),
        sa.Column("release_id", BIGINT, nullable=False),
        sa.Column("withdrawal_id", UUID, nullable=True),
        sa.Column("wanted", JSON, nullable=False),
        sa.Column("done", JSON, nullable=False),
        sa.Column("state", _choice("state", "queued", "running", "done", "failed"), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", WORDS, nullable=True),
        sa.Column("next_at", MOMENT, nullable=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("finished", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name=op.f("fk_takedown_release_id_release")),
        sa.ForeignKeyConstraint(
            ["withdrawal_id"], ["withdrawal.id"], name=op.f("fk_takedown_withdrawal_id_withdrawal")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_takedown")),
    )
    op.create_index("ix_takedown_release_id", "takedown", ["release_id"], unique=False)
    op.create_index("ix_takedown_state_next_at", "takedown", ["state", "next_at"], unique=False)
