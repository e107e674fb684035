"""What an outsider finds who kept one old checkpoint, when an insider who has everything rewrites history.

The insider has the database, the signing key and this code: every hash, checkpoint and head is put right after the
change. The outsider has the log as it is exported or published today, the log's key, and one signed note from before.
`make soak` runs hundreds of random histories; the ordinary tests run one of each.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from tests.services.audit.test_log import raw
from w2w_registry.audit import checkpoint as signing
from w2w_registry.audit import verifier
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.audit.merkle import Frontier
from w2w_registry.catalog.event_log import ChainHead, Checkpoint, Event
from w2w_registry.catalog.rows import table_of
from w2w_registry.consent.records import Scope
from w2w_registry.errors import IntegrityError
from w2w_registry.records import digest_of, iso, now
from w2w_registry.services.audit import log
from w2w_registry.services.audit.publish import publish
from w2w_registry.services.audit.witness import witness
from w2w_registry.services.consent import grants, subjects
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.settings import load_settings

Rows = list[dict[str, Any]]
SMALL = 1
MANY = 100


class Insider:
    """Who runs the registry, and may rewrite it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.home, self.rng = folder / "home", random.Random(seed)
        self.settings = load_settings(self.home, actor="curator", env={})
        init_registry(self.settings)
        self._people = 0

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        with open_registry(load_settings(self.home, actor="curator", env={})) as opened:
            yield opened

    def work(self, registry: Registry, steps: int) -> None:
        """Things as they happen: people, consents, policies, checkpoints."""
        for _ in range(steps):
            what = self.rng.choice(("person", "person", "grant", "policy", "event", "checkpoint"))
            if what == "person" or not self._people:
                self._people += 1
                subjects.add_subject(registry, f"s{self._people}")
            elif what == "grant":
                scope = Scope(purposes=("research",), derivatives=self.rng.random() < 0.5)
                grants.grant(registry, f"s{self.rng.randint(1, self._people)}", scope)
            elif what == "policy":
                file = self.home.parent / "policy.toml"
                file.write_text(f'[policy]\npurpose = "{self.rng.choice(("art", "film", "games", "news"))}"\n')
                policies.adopt(registry, file)
            elif what == "checkpoint":
                log.checkpoint(registry)
            else:
                with registry.catalog.write("curator") as uow:
                    uow.event("note.kept", {}, number=self.rng.randint(0, 99))

    def rewrite(self, change: Callable[[Rows], Rows], *, policy_too: bool = False) -> None:
        """Change the events, then put everything right that anything says about them."""
        private = bytes.fromhex((self.home / "keys" / "audit.key").read_text().strip())
        with contextmanager(raw)(self.settings.database_url) as connection:
            events = [dict(r._mapping) for r in connection.execute(select(table_of(Event)).order_by(Event.seq))]
            notes = [dict(r._mapping) for r in connection.execute(select(table_of(Checkpoint)).order_by(Checkpoint.id))]
            origin = notes[0]["note"].partition("\n")[0]
            signed = {digest_of(row["note"]): row for row in notes}
            events = change(events)
            prev, frontier, roots, kept = GENESIS, Frontier(), [b""], []
            for seq, row in enumerate(events, 1):
                row["seq"], row["prev_hash"] = seq, prev
                old = signed.get(row["payload"].get("note", "")) if row["action"] == log.CHECKPOINT else None
                if old is not None:
                    size = min(old["size"], seq - 1)
                    note = signing.sign(origin, size, roots[size], old["at"], private)
                    kept.append({**old, "id": len(kept) + 1, "size": size, "root": roots[size].hex(), "note": note})
                    row["payload"] = {"size": size, "root": roots[size].hex(), "note": digest_of(note)}
                body = {k: row[k] for k in ("seq", "actor", "action", "objects", "changes", "payload")}
                body |= {"at": iso(row["at"])} | ({} if row["policy"] is None else {"policy": row["policy"]})
                row["hash"] = prev = event_hash(prev, body)
                frontier.append(bytes.fromhex(prev))
                roots.append(frontier.root())
            for table, rows in ((Event, events), (Checkpoint, kept)):
                connection.execute(delete(table_of(table)))
                if rows:
                    connection.execute(insert(table_of(table)), rows)
            connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = ? WHERE name = 'checkpoint'", (len(kept),))
            connection.execute(update(table_of(ChainHead)).values(seq=len(events), hash=prev))

    def drop_checkpoint(self) -> None:
        with contextmanager(raw)(self.settings.database_url) as connection:
            newest = select(Checkpoint.id).order_by(Checkpoint.id.desc()).limit(1).scalar_subquery()
            connection.execute(delete(table_of(Checkpoint)).where(Checkpoint.id == newest))

    def backup(self) -> Path:
        kept = self.home.parent / "backup.db"
        with contextmanager(raw)(f"sqlite:///{self._database}") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self._database, kept)
        return kept

    def roll_back(self, kept: Path) -> None:
        for path in self._database.parent.glob("catalog.db-*"):
            path.unlink()
        shutil.copy(kept, self._database)

    @property
    def _database(self) -> Path:
        return Path(self.settings.database_url.removeprefix("sqlite:///"))


def cut(insider: Insider, size: int, _: Path) -> None:
    """The end of the log is gone, from somewhere before the old checkpoint on."""
    left = insider.rng.randint(1, size - 1)
    insider.rewrite(lambda events: events[:left])


def changed(insider: Insider, size: int, _: Path) -> None:
    """One event of long ago says something else."""
    place = insider.rng.randint(0, size - 1)

    def change(events: Rows) -> Rows:
        events[place]["actor"] += " (not me)"
        return events

    insider.rewrite(change)


def fork(insider: Insider, size: int, _: Path) -> None:
    """From an event of long ago on another history is told, as long as the true one or longer."""
    place, longer = insider.rng.randint(1, size - 1), insider.rng.randint(0, size)

    def change(events: Rows) -> Rows:
        note = {"actor": "curator", "action": "note.kept", "objects": {}, "changes": [], "policy": None}
        told = [{**events[place], **note, "payload": {"number": i}} for i in range(len(events) - place + longer)]
        return events[:place] + told

    insider.rewrite(change)


def left_out(insider: Insider, size: int, _: Path) -> None:
    """One event of long ago never happened."""
    place = insider.rng.randint(1, size - 1)
    insider.rewrite(lambda events: events[:place] + events[place + 1 :])


def rollback(insider: Insider, size: int, backup: Path) -> None:
    """A backup from before the old checkpoint was put back, and life went on beyond it."""
    insider.roll_back(backup)
    with insider.registry() as registry:
        insider.work(registry, insider.rng.randint(0, 2 * size))


def dropped(insider: Insider, size: int, _: Path) -> None:
    """A checkpoint newer than the outsider's is gone, its event is not."""
    insider.drop_checkpoint()


def policy_before(insider: Insider, size: int, _: Path) -> None:
    """The policy of long ago was another."""

    def change(events: Rows) -> Rows:
        first = next(e for e in events if e["action"] == "policy.set")
        first["payload"] = {**first["payload"], "digest": "ab" * 32}
        return events

    insider.rewrite(change)


def policy_after(insider: Insider, size: int, _: Path) -> None:
    """Since the checkpoint things were decided under a policy that was never put in force."""

    def change(events: Rows) -> Rows:
        for event in events[size:]:
            event["policy"] = "cd" * 32
        return events

    insider.rewrite(change)


def clock(insider: Insider, size: int, _: Path) -> None:
    """What came after the checkpoint is dated before it."""

    def change(events: Rows) -> Rows:
        for event in events[size:]:
            event["at"] -= timedelta(days=400)
        return events

    insider.rewrite(change)


ATTACKS = (cut, changed, fork, left_out, rollback, dropped, policy_before, policy_after, clock)
ON_TILES = {cut, changed, fork, left_out, rollback, policy_before}
"""What shows in hashes alone; the others need the log itself."""


def story(tmp_path: Path, seed: int) -> tuple[Insider, str, str, Path]:
    """A history with an old checkpoint in its middle: who made it, the note, the log's key, a backup from before."""
    insider = Insider(tmp_path, seed)
    with insider.registry() as registry:
        insider.work(registry, insider.rng.randint(2, 12))
    backup = insider.backup()
    with insider.registry() as registry:
        insider.work(registry, insider.rng.randint(1, 12))
        with registry.catalog.write("curator") as uow:
            uow.event("note.kept", {})
        old = log.checkpoint(registry)
        insider.work(registry, insider.rng.randint(2, 12))
        with registry.catalog.write("curator") as uow:
            uow.event("note.kept", {})
        log.checkpoint(registry)
    return insider, old["note"], old["public_key"], backup


def look(insider: Insider, old: str, key: str, folder: Path) -> tuple[list[Any], list[Any]]:
    """What the outsider finds in the exported log, and in the published tiles."""
    with insider.registry() as registry:
        out = folder / f"{insider.rng.random()}.jsonl"
        log.export(registry, out)
        with open(out, encoding="utf-8") as stream:
            exported = verifier.check_log(stream, key, [old])[2]
        try:
            publish(registry, folder / out.stem)
            published = verifier.check_published(str(folder / out.stem), key, [old])
        except IntegrityError as error:  # it cannot even be signed any more
            published = [(0, str(error))]
    return exported, published


def campaign(tmp_path: Path, attack: Any, seeds: range) -> tuple[int, int]:
    """(attacks made, found) by an outsider with one old checkpoint; honest logs are let through."""
    made = found = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        insider, old, key, backup = story(folder, seed)
        assert look(insider, old, key, folder) == ([], [])
        attack(insider, signing.verify(old, bytes.fromhex(key)).size, backup)
        exported, published = look(insider, old, key, folder)
        made += 1
        found += bool(exported) and (bool(published) or attack not in ON_TILES)
        shutil.rmtree(folder)
    return made, found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_outsider_with_one_old_checkpoint_finds_it(tmp_path: Path, attack: Any) -> None:
    assert campaign(tmp_path, attack, range(SMALL)) == (SMALL, SMALL)


@pytest.mark.soak
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_outsider_always_finds_it(tmp_path: Path, attack: Any) -> None:
    made, found = campaign(tmp_path, attack, range(1000, 1000 + MANY))
    print(f"\n{attack.__name__}: {found} of {made} found")
    assert found == made == MANY


# -- the witness -------------------------------------------------------------------------------------
def test_a_witness_cosigns_what_extends_what_it_saw(tmp_path: Path) -> None:
    insider, _, key, _ = story(tmp_path, 7)
    folder, state = tmp_path / "published", tmp_path / "witness"
    with insider.registry() as registry:
        publish(registry, folder)
        first = witness(str(folder), state, name="w.example", log_key=bytes.fromhex(key))
        insider.work(registry, 8)
        (tmp_path / "cosigned.txt").write_text(first["note"], "utf-8")
        with registry.catalog.write("curator") as uow:
            uow.event("note.kept", {})
        published = publish(registry, folder)
        second = witness(str(folder), state)
        assert (first["before"], second["before"]) == (None, first["size"])
        assert second["size"] == published["size"] > first["size"]
        assert witness(str(folder), state)["note"] == second["note"]  # once signed, the same line again
        (tmp_path / "cosigned.txt").write_text(second["note"], "utf-8")
        assert publish(registry, folder, cosigned=[tmp_path / "cosigned.txt"])["cosigned_by"] == ["w.example"]
        assert publish(registry, folder)["cosigned_by"] == ["w.example"]
    assert verifier.check_published(str(folder), key, [first["note"]], [second["witness_key"]]) == []
    stranger = signing.Witness("x.example", bytes(32)).vkey
    assert len(verifier.check_published(str(folder), key, witnesses=[stranger])) == 1


@pytest.mark.parametrize("attack", sorted(ON_TILES, key=lambda a: a.__name__), ids=lambda attack: attack.__name__)
def test_a_witness_refuses_another_history_and_keeps_the_proof(tmp_path: Path, attack: Any) -> None:
    insider, old, key, backup = story(tmp_path, 11)
    state = tmp_path / "witness"
    with insider.registry() as registry:
        publish(registry, tmp_path / "before")
    first = witness(str(tmp_path / "before"), state, name="w.example", log_key=bytes.fromhex(key))
    attack(insider, signing.verify(old, bytes.fromhex(key)).size, backup)
    with insider.registry() as registry:
        with pytest.raises(IntegrityError):  # nor does the folder take it
            publish(registry, tmp_path / "before")
        publish(registry, tmp_path / "after")
    with pytest.raises(IntegrityError) as caught:
        witness(str(tmp_path / "after"), state)
    if attack is not policy_before and caught.value.code == "log-forked":  # its origin may be another: a new log
        kept = list(Path(caught.value.kept).glob("against-*.txt"))
        assert len(kept) == 1
        assert signing.verify(kept[0].read_text("utf-8"), bytes.fromhex(key)).origin == first["log"]


def test_a_witness_refuses_time_that_runs_back_or_ahead(tmp_path: Path) -> None:
    insider, _, key, _ = story(tmp_path, 3)
    state = tmp_path / "witness"
    with insider.registry() as registry:
        publish(registry, tmp_path / "pub")
        early = lambda: now() - timedelta(days=2)  # noqa: E731
        with pytest.raises(IntegrityError, match="is in the future"):
            witness(str(tmp_path / "pub"), state, name="w.example", log_key=bytes.fromhex(key), clock=early)
        witness(str(tmp_path / "pub"), state, log_key=bytes.fromhex(key))
    here = tmp_path / "pub" / "checkpoint"
    seen = signing.verify(here.read_text("utf-8"), bytes.fromhex(key))
    private = bytes.fromhex((insider.home / "keys" / "audit.key").read_text().strip())
    here.write_text(signing.sign(seen.origin, seen.size, seen.root, datetime(2020, 1, 1, tzinfo=UTC), private), "utf-8")
    with pytest.raises(IntegrityError, match="cannot be trusted"):
        witness(str(tmp_path / "pub"), state)


def test_proof_that_one_checkpoint_extends_another(tmp_path: Path) -> None:
    insider, old, key, _ = story(tmp_path, 5)
    with insider.registry() as registry:
        proof = json.loads(json.dumps(log.prove_extension(registry, old)))
    assert verifier.check_proof(proof, key) == []
    assert verifier.check_proof(proof)
    assert verifier.check_proof({**proof, "path": proof["path"][1:]}, key)
    assert verifier.check_proof({**proof, "old": proof["new"], "new": proof["old"]}, key)
    changed(insider, 3, tmp_path)
    with insider.registry() as registry, pytest.raises(IntegrityError):
        log.prove_extension(registry, old)
