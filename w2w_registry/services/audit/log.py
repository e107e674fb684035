"""The audit log as a service: checkpoints, verification, proofs, export.

The signing key is ``keys/audit.key`` in the home folder, its public half ``keys/audit.pub``. Whoever can write there
and in the database can forge; copies of checkpoints kept elsewhere (``audit checkpoint --out``) are what finds that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.audit import checkpoint as signing
from w2w_registry.audit import export as exporting
from w2w_registry.audit.checks import (
    ChainCheck,
    Finding,
    FindingCode,
    LoggedEvent,
    RowClaim,
    check_rows,
    leaf_of,
)
from w2w_registry.audit.merkle import root as root_of
from w2w_registry.catalog import events as log
from w2w_registry.catalog.event_log import Checkpoint, Event
from w2w_registry.commands import command
from w2w_registry.errors import BadFile, IntegrityError, NotFound, UsageError, storage_error
from w2w_registry.files import read_text
from w2w_registry.records import Result, digest_of, iso
from w2w_registry.services.audit import keys
from w2w_registry.services.registry import Registry

CHECKPOINT = "audit.checkpoint"
KEY = "audit"


@dataclass(frozen=True)
class Verdict:
    """What verification found. ``kept``: checkpoints given from elsewhere that were held against the log too."""

    events: int
    checkpoints: int
    kept: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def first_bad(self) -> int | None:
        """The first sequence number that is wrong; None when nothing is, or only rows no event speaks of."""
        return min((f.seq for f in self.findings if f.seq is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "events": self.events,
            "checkpoints": self.checkpoints,
            "kept_checkpoints": self.kept,
            "rows": self.rows,
            "first_bad": self.first_bad,
            "findings": [
                {"code": str(f.code), "seq": f.seq, "what": f.what, "expected": f.expected, "found": f.found}
                for f in self.findings
            ],
        }


@dataclass(frozen=True, eq=False)
class CheckpointMade(Result):
    """The newest checkpoint of the log; ``created``: it was signed just now."""

    size: int
    root: str
    head: str
    note: str
    public_key: str
    created: bool


def checkpoint(registry: Registry, *, out: Path | None = None) -> CheckpointMade:
    """Verify the chain, then sign how long it is and its Merkle root. Without new events the last one is returned.

    Args:
        out: also write the signed note there, to be kept out of reach of whoever can write the database.

    Raises:
        UsageError: the log is empty. IntegrityError: the log does not verify; nothing is signed.
        SettingError: the key is none, or gone. StorageError: the key or ``out`` cannot be written.
    """
    with registry.catalog.read() as session:
        rows = log.stored_checkpoints(session)
        public = signing.public_key(_private_key(registry, used=bool(rows)))
        run = ChainCheck([row.note for row in rows], public)
        findings = [*run.run(_events(session)), *_check_columns(rows, public)]
        if not run.size:
            raise UsageError(reason="the log is empty; there is nothing to sign")
        if findings:
            bad = findings[0]
            wanted, found = bad.expected or "", bad.found or str(bad.code)
            raise IntegrityError(what="audit log", name=bad.what, expected=wanted, found=found, seq=bad.seq)
        origin = _origin(session)
        newer = [e.body["action"] for e in _events(session, after=rows[-1].size)] if rows else []
    last = rows[-1] if rows else None
    # The checkpoint's own event does not call for another checkpoint.
    if last is not None and newer in ([], [CHECKPOINT]):
        note, created = last.note, False
    else:
        note, created = _sign(registry, origin, run), True
    if out is not None:
        write_atomic(out, note.encode())
    return CheckpointMade(
        size=run.size,
        root=run.root.hex(),
        head=run.head,
        note=note,
        public_key=public.hex(),
        created=created,
    )


def verify(registry: Registry, *, public_key: bytes | None = None, kept: Sequence[str] = ()) -> Verdict:
    """Check the whole chain, all checkpoints, the head, and every audited row against the last event about it.

    Args:
        public_key: the key checkpoints must be signed with; None = the one in the home folder.
        kept: signed checkpoints kept elsewhere, held against the log too.
    """
    public = public_key or own_key(registry)
    claims: dict[tuple[str, str], RowClaim] = {}
    with registry.catalog.read() as session:
        rows = log.stored_checkpoints(session)
        run = ChainCheck([*(str(row.note) for row in rows), *kept], public)
        findings = list(run.run(_claiming(_events(session), claims)))
        findings += _check_head(session, run)
        findings += _check_known(_events(session), rows, run.size)
        if public is not None:
            findings += _check_columns(rows, public)
        present = 0

        def counted() -> Iterator[tuple[str, str, str]]:
            nonlocal present
            for row in log.present_rows(session):
                present += 1
                yield row.table, row.key, row.digest

        findings += check_rows(claims, counted())  # type: ignore[arg-type]
    findings.sort(key=lambda f: (f.seq is None, f.seq or 0))
    return Verdict(run.size, len(rows), len(kept), present, tuple(findings))


def prove(registry: Registry, seq: int) -> dict[str, Any]:
    """Proof that event ``seq`` is in the log: against the newest checkpoint that covers it, else unsigned.

    Raises:
        NotFound: no such event.
    """
    with registry.catalog.read() as session:
        found = next(iter(_events(session, after=seq - 1, until=seq)), None)
        if found is None:
            raise NotFound(what="event", name=str(seq))
        covering = [row for row in log.stored_checkpoints(session) if row.size >= seq]
        note = covering[-1].note if covering else None
        until = covering[-1].size if covering else None
        hashes = [leaf_of(text) for text in log.event_hashes(session, until=until)]
    return exporting.proof(hashes, found, note)


def prove_extension(registry: Registry, kept: str) -> dict[str, Any]:
    """Proof that the newest checkpoint extends one that was kept elsewhere.

    Raises:
        NotFound: nothing newer is signed. IntegrityError: the checkpoint kept is not one of this log.
    """
    public = own_key(registry)
    if public is None:
        raise NotFound(what="checkpoint", name="of this log")
    old = signing.verify(kept, public)
    with registry.catalog.read() as session:
        newest = log.stored_checkpoints(session)[-1]
        hashes = [leaf_of(text) for text in log.event_hashes(session, until=newest.size)]
    if old.size > newest.size or root_of(hashes[: old.size]) != old.root:
        raise IntegrityError(
            what="audit log",
            name=old.origin,
            expected=f"{old.size} events with root {old.root.hex()[:16]}",
            found=f"{newest.size} events of another history",
        )
    return exporting.extension(hashes, old.size, kept, newest.note)


@dataclass(frozen=True, eq=False)
class LogExported(Result):
    """A log that was written to a file."""

    path: str
    events: int
    checkpoints: int
    public_key: str | None


def export(registry: Registry, out: Path) -> LogExported:
    """Write the whole log to ``out`` as JSON lines, for ``examples/verify_audit.py``.

    Raises:
        StorageError: it cannot be written.
    """
    public = own_key(registry)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with registry.catalog.read() as session, open(temporary, "w", encoding="utf-8") as stream:
            notes = [row.note for row in log.stored_checkpoints(session)]
            for line in exporting.lines(_origin(session), public, _events(session), notes):
                stream.write(line + "\n")
                count += 1
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(out, error) from error
    return LogExported(
        path=str(out),
        events=count - 1 - len(notes),
        checkpoints=len(notes),
        public_key=None if public is None else public.hex(),
    )


def events_list(registry: Registry, **filters: Any) -> list[EventRow]:
    """Events as ``catalog.events.events`` filters them: sequence, time, actor, action, objects, payload."""
    with registry.catalog.read() as session:
        return [event_json(event) for event in log.events(session, **filters)]


@dataclass(frozen=True, eq=False)
class EventRow(Result):
    """One event of the log."""

    seq: int
    at: str
    actor: str
    action: str
    objects: Mapping[str, Any]
    payload: Mapping[str, Any]


def event_json(event: Event) -> EventRow:
    """An event for people: without row digests and hashes."""
    return EventRow(
        seq=event.seq,
        at=iso(event.at),
        actor=event.actor,
        action=event.action,
        objects=event.objects,
        payload=event.payload,
    )


def read_key(text: str | None) -> bytes | None:
    """A public key as people type it, in hex.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(reason="a public key is 64 hex digits", hint=f"`{command('audit checkpoint')}` prints it")
    return key


def read_notes(paths: Iterable[Path]) -> list[str]:
    """Signed checkpoints kept in files.

    Raises:
        BadFile: one cannot be read.
    """
    out: list[str] = []
    for path in paths:
        try:
            out.append(read_text(path))
        except BadFile as error:
            raise BadFile(path=str(path), reason=f"not a checkpoint: {error.fields['reason']}") from None
    return out


def write_json(value: Any, out: Path) -> None:
    """Write plain values to a file. Raises StorageError."""
    write_atomic(out, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


# -- parts -------------------------------------------------------------------------------------------
def _events(session: Session, *, after: int = 0, until: int | None = None) -> Iterator[LoggedEvent]:
    for event in log.stored_events(session, after=after, until=until):
        yield LoggedEvent(event.seq, event.body, str(event.prev_hash), str(event.hash))


def _claiming(events: Iterable[LoggedEvent], claims: dict[tuple[str, str], RowClaim]) -> Iterator[LoggedEvent]:
    """Pass events on, noting what each says of rows: the log is read once."""
    for event in events:
        changes = event.body["changes"]
        for change in changes if isinstance(changes, list) else ():
            if isinstance(change, list) and len(change) == 4:
                table, key, _, digest = change
                claims[str(table), str(key)] = RowClaim(str(table), str(key), digest, event.seq)
        yield event


def _check_head(session: Session, run: ChainCheck) -> list[Finding]:
    """The head row must name the last event: a tail cut since the last checkpoint shows here."""
    head = log.chain_head(session)
    if head == (run.size, run.head):
        return []
    if head is None or not isinstance(head[0], int):
        return [Finding(FindingCode.TAIL_CUT, run.size + 1, "chain head", run.head, str(head))]
    code = FindingCode.TAIL_CUT if head[0] > run.size else FindingCode.CHAIN_BROKEN
    return [Finding(code, min(head[0], run.size) + 1, "chain head", f"{head[0]} {head[1]}", f"{run.size} {run.head}")]


def _check_known(events: Iterable[LoggedEvent], rows: Sequence[log.StoredCheckpoint], size: int) -> list[Finding]:
    """Every checkpoint that an event speaks of is there, and says what it said; and an event speaks of the last one."""
    digests = {digest_of(str(row.note)) for row in rows}
    found = [
        Finding(FindingCode.CHECKPOINT_MISSING, e.seq, f"checkpoint of event {e.seq}", e.body["payload"].get("note"))
        for e in events
        if e.body["action"] == CHECKPOINT
        and isinstance(e.body["payload"], dict)
        and e.body["payload"].get("note") not in digests
    ]
    # A checkpoint and its event are recorded at once, so no log ends at what its last checkpoint has signed.
    if rows and rows[-1].size == size:
        what = f"event of checkpoint row {rows[-1].id}"
        found.append(Finding(FindingCode.TAIL_CUT, size + 1, what, f"{size + 1} events or more", f"{size} events"))
    return found


def _check_columns(rows: Sequence[log.StoredCheckpoint], public: bytes) -> list[Finding]:
    """The columns beside the signed note say what the note says, and no checkpoint is missing in between."""
    found: list[Finding] = []
    for place, row in enumerate(rows, 1):
        what = f"checkpoint row {row.id}"
        if row.id != place:
            found.append(Finding(FindingCode.CHECKPOINT_FORGED, None, what, f"id {place}", f"id {row.id}"))
        try:
            signed = signing.verify(str(row.note), public)
        except IntegrityError:
            continue  # the chain check has said so
        said = (signed.size, signed.root.hex(), signed.at, signing.key_id(signed.origin, public).hex())
        has = (row.size, row.root, row.at, row.public_key_id)
        if said != has:
            found.append(Finding(FindingCode.CHECKPOINT_FORGED, signed.size, what, str(said), str(has)))
    return found


def _sign(registry: Registry, origin: str, run: ChainCheck) -> str:
    private = _private_key(registry)
    with registry.catalog.write(registry.actor) as uow:
        at = uow.now()
        note = signing.sign(origin, run.size, run.root, at, private)
        uow.session.add(
            Checkpoint(  # a sequence of the database would leave a gap where a transaction was broken off
                id=log.last_checkpoint(uow.session) + 1,
                size=run.size,
                root=run.root.hex(),
                note=note,
                public_key_id=signing.key_id(origin, signing.public_key(private)).hex(),
                at=at,
            )
        )
        uow.event(CHECKPOINT, {}, size=run.size, root=run.root.hex(), note=digest_of(note))
    return note


def _origin(session: Session) -> str:
    """The log's name: its first event's hash tells it from every other."""
    first = log.first_hash(session)
    return f"w2w-registry/{(first or 'empty')[:16]}"


def own_key(registry: Registry) -> bytes | None:
    """The public key that checkpoints are signed with; None when nothing was signed yet."""
    return keys.public_key(registry.settings.home / "keys", KEY)


def _private_key(registry: Registry, *, used: bool = False) -> bytes:
    return keys.private_key(registry.settings.home / "keys", KEY, used=used)
