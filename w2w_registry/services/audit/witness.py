"""A witness: somebody else who looks at a published log now and then, and remembers the newest checkpoint.

It cosigns a checkpoint (c2sp.org/tlog-cosignature) after seeing that it extends the last one it has seen. It needs no
registry: a key, and a folder in which it remembers. Whoever trusts one witness then knows that everybody is shown the
same history.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from w2w_registry.artifacts import write_atomic
from w2w_registry.audit import checkpoint as signing
from w2w_registry.audit import tiles
from w2w_registry.audit.merkle import consistency_path
from w2w_registry.audit.verifier import extends
from w2w_registry.commands import command
from w2w_registry.errors import BadFile, BadName, LogForked, StorageError, UsageError, storing
from w2w_registry.files import read_bytes, read_text
from w2w_registry.records import Result, now
from w2w_registry.services.audit import keys

KEY = "witness"
_LIMIT = 1 << 20
_WAIT = 30.0
AHEAD = 300.0
"""Seconds that a log's clock may be ahead of the witness's."""


@dataclass(frozen=True)
class Memory:
    """What a witness keeps of one log, in a folder of its own: the log's key, and the last checkpoint seen."""

    folder: Path

    @classmethod
    def of(cls, state: Path, origin: str) -> Memory:
        return cls(state / "logs" / sha256(origin.encode()).hexdigest()[:32])

    def key(self) -> bytes | None:
        return keys.public_key(self.folder, "log")

    def seen(self) -> str | None:
        path = self.folder / tiles.CHECKPOINT
        return read_text(path, limit=_LIMIT) if path.exists() else None


@dataclass(frozen=True, eq=False)
class Witnessed(Result):
    """A log that was seen to extend what was seen of it before, and the note that says so."""

    log: str
    size: int
    root: str
    before: int | None
    witness: str
    witness_key: str
    at: str
    note: str


def witness(
    source: str,
    state: Path,
    *,
    name: str | None = None,
    log_key: bytes | None = None,
    clock: Callable[[], datetime] = now,
) -> Witnessed:
    """Look at a published log, and cosign its checkpoint if it extends the last one seen.

    Args:
        source: folder or http(s) address that ``audit publish`` filled.
        state: where the witness's key and memory are.
        name: the witness's name; needed the first time only.
        log_key: the log's public key; needed the first time that this log is seen.

    Raises:
        LogForked: the log was cut, forked, or its time set back; both checkpoints are kept in the witness's folder.
        IntegrityError: not signed by the log's key, or the tiles do not lead to the checkpoint.
        UsageError, BadName: a key or a name is missing or unusable. StorageError: the log cannot be read.
    """
    fetch = _fetcher(source)
    note = _text(source, fetch(tiles.CHECKPOINT))
    me, private = _myself(state, name)
    body, _ = signing.split(note)
    memory = Memory.of(state, body.partition("\n")[0])
    with FileLock(state / "lock"):
        public = _log_key(memory, log_key)
        new = signing.verify(note, public)
        old_note = memory.seen()
        _compare(source, fetch, memory, note, new, None if old_note is None else signing.verify(old_note, public))
        at = clock()
        if datetime.fromisoformat(new.at).timestamp() > at.timestamp() + AHEAD:
            raise LogForked(log=new.origin, reason=f"its checkpoint is of {new.at}, which is in the future", kept=None)
        if old_note is not None and signing.split(old_note)[0] == body and signing.cosigned(old_note, me) is not None:
            signed = signing.joined(note, [old_note])
        else:
            signed = signing.joined(note, [body + "\n" + signing.cosign(note, me, private, at)])
        _remember(memory, public, signed)  # before anybody has the line: never sign two histories
    second = signing.cosigned(signed, me)
    assert second is not None
    return Witnessed(
        log=new.origin,
        size=new.size,
        root=new.root.hex(),
        before=None if old_note is None else signing.verify(old_note, public).size,
        witness=me.name,
        witness_key=me.vkey,
        at=datetime.fromtimestamp(second, UTC).isoformat(),
        note=signed,
    )


def deliver(source: str, signed: str, out: Path | None) -> str | None:
    """Write the cosigned note to ``out``, or, when the log is a folder, add the line to its checkpoint; where it is.

    Raises:
        StorageError.
    """
    target = out if out is not None else (None if _is_address(source) else Path(source) / tiles.CHECKPOINT)
    if target is None:
        return None
    with storing(target):
        if out is None:
            there = read_text(target, limit=_LIMIT)
            if signing.split(there)[0] != signing.split(signed)[0]:
                return None  # a newer one was published meanwhile
            signed = signing.joined(there, [signed])
        write_atomic(target, signed.encode())
    return str(target)


def _compare(
    source: str,
    fetch: Callable[[str], bytes],
    memory: Memory,
    note: str,
    new: signing.Checkpoint,
    old: signing.Checkpoint | None,
) -> None:
    """Raise unless the tiles lead to the new checkpoint, and it extends the old one."""
    reader = tiles.TileReader(new.size, fetch)
    try:
        if new.size and reader.node(0, new.size) != new.root:
            raise _forked(memory, note, new, "its tiles do not lead to its checkpoint")
        if old is None:
            return
        if new.size < old.size:
            raise _forked(memory, note, new, f"it has {new.size} events and had {old.size}: it was cut or rolled back")
        path = consistency_path(old.size, new.size, reader.node) if old.size else ()
    except ValueError as error:
        raise StorageError(path=source, reason=str(error)) from error
    if old.size and not extends(old.size, old.root, new.size, new.root, path):
        raise _forked(memory, note, new, f"its first {old.size} events are not those seen before")
    if new.at < old.at:
        raise _forked(memory, note, new, f"its checkpoint is of {new.at}, the last one seen of {old.at}")


def _forked(memory: Memory, note: str, new: signing.Checkpoint, reason: str) -> LogForked:
    """What was seen is kept: two checkpoints that one key signed and that cannot both be true are proof for anybody."""
    kept = memory.folder / f"against-{new.size}-{new.root.hex()[:8]}.txt"
    write_atomic(kept, note.encode())
    return LogForked(log=new.origin, reason=reason, kept=str(memory.folder))


def _myself(state: Path, name: str | None) -> tuple[signing.Witness, bytes]:
    """The witness's name and key, made at its first use."""
    path = state / "name"
    known = read_text(path, limit=1024).strip() if path.exists() else None
    if known is None and name is None:
        raise UsageError(reason="this witness has no name yet", hint="give [[name]], such as your domain")
    if known is not None and name not in (None, known):
        raise UsageError(reason=f"this witness is called {known!r}", hint="another one needs another [[state]] folder")
    called = known or str(name)
    if not called or any(c.isspace() or c == "+" for c in called):
        raise BadName(name=called, what="witness", reason="a name without spaces and plus signs")
    private = keys.private_key(state, KEY)
    if known is None:
        write_atomic(path, called.encode() + b"\n")
    return signing.Witness(called, signing.public_key(private)), private


def _log_key(memory: Memory, given: bytes | None) -> bytes:
    known = memory.key()
    if known is None and given is None:
        raise UsageError(
            reason="this log was not seen before, so its key is not known",
            hint=f"ask who runs it, not the log itself, and give [[key]]; `{command('audit checkpoint')}` prints it",
        )
    if known is not None and given not in (None, known):
        raise UsageError(reason=f"this log's key is known to be {known.hex()}")
    return known or given or b""


def _remember(memory: Memory, public: bytes, signed: str) -> None:
    if memory.key() is None:
        write_atomic(memory.folder / "log.pub", public.hex().encode() + b"\n")
    write_atomic(memory.folder / tiles.CHECKPOINT, signed.encode())


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _fetcher(source: str) -> Callable[[str], bytes]:
    """Reads a file of the published folder or address."""

    def from_folder(path: str) -> bytes:
        try:
            return read_bytes(Path(source) / path, limit=_LIMIT)
        except BadFile as error:
            raise BadFile(
                path=str(error.fields["path"]),
                reason=error.fields["reason"],
                hint=f"`{command('audit publish')}` fills it",
            ) from None

    def from_address(path: str) -> bytes:
        address = f"{source.rstrip('/')}/{path}"
        try:
            with urllib.request.urlopen(address, timeout=_WAIT) as answer:
                data = bytes(answer.read(_LIMIT + 1))
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise StorageError(path=address, reason=str(error)) from error
        if len(data) > _LIMIT:
            raise StorageError(path=address, reason=f"larger than {_LIMIT} bytes")
        return data

    return from_address if _is_address(source) else from_folder


def _text(source: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadFile(path=source, reason="its checkpoint is not text") from None
