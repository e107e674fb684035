"""The triggers that make ``event`` and ``checkpoint`` append-only, as the newest migration leaves them.

Migrations keep their own copy (they must not change when this does); ``schema.check`` compares the database with this.
They are a guard against mistakes; against whoever may drop a trigger there are the chain and its checkpoints.
"""

from __future__ import annotations

APPEND_ONLY = ("event", "checkpoint")

SQLITE: dict[str, str] = {
    **{
        f"{table}_no_{verb.lower()}": (
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
        for table in APPEND_ONLY
        for verb in ("UPDATE", "DELETE")
    },
    # also stops INSERT OR REPLACE, which fires no delete trigger
    "event_in_sequence": (
        "CREATE TRIGGER event_in_sequence BEFORE INSERT ON event "
        "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event) "
        "BEGIN SELECT RAISE(ABORT, 'event out of sequence'); END"
    ),
    "checkpoint_no_replace": (
        "CREATE TRIGGER checkpoint_no_replace BEFORE INSERT ON checkpoint "
        "WHEN EXISTS (SELECT 1 FROM checkpoint WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END"
    ),
}

POSTGRESQL_FUNCTIONS: dict[str, str] = {
    "w2w_append_only": " BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END; ",
    "w2w_event_in_sequence": (
        " BEGIN IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event) THEN"
        " RAISE EXCEPTION 'event out of sequence'; END IF; RETURN NEW; END; "
    ),
}

POSTGRESQL: dict[str, str] = {
    **{
        f"{table}_append_only": (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION w2w_append_only()"
        )
        for table in APPEND_ONLY
    },
    "event_in_sequence": (
        "CREATE TRIGGER event_in_sequence BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION w2w_event_in_sequence()"
    ),
}
