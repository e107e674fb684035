"""Checks over the whole log, streaming: the chain, the checkpoints, and the rows against what events say of them.

Every finding names the first sequence number that is wrong, so that a person knows from where on nothing can be
taken at its word.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from w2w_registry.audit import checkpoint as checkpoints
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.audit.merkle import EMPTY_ROOT, Frontier
from w2w_registry.errors import IntegrityError


class FindingCode(StrEnum):
    """What can be wrong."""

    EVENT_EDITED = "event-edited"
    EVENT_MISSING = "event-missing"
    EVENT_OUT_OF_ORDER = "event-out-of-order"
    CHAIN_BROKEN = "chain-broken"
    TAIL_CUT = "tail-cut"
    HISTORY_REWRITTEN = "history-rewritten"
    CHECKPOINT_FORGED = "checkpoint-forged"
    CHECKPOINT_MISSING = "checkpoint-missing"
    ROW_EDITED = "row-edited"
    ROW_MISSING = "row-missing"
    ROW_UNEXPLAINED = "row-unexplained"


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold. ``seq``: the first event concerned; None when no event ever spoke of it."""

    code: FindingCode
    seq: int | None
    what: str
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True)
class LoggedEvent:
    """An event as stored: its body, which includes ``seq``, and the two hashes."""

    seq: int
    body: Mapping[str, Any]
    prev_hash: str
    hash: str


@dataclass
class ChainCheck:
    """Feed events in stored order, then read ``findings``.

    ``checkpoints``: signed notes, as stored or as kept elsewhere, to hold the log against.
    """

    checkpoints: Iterable[str] = ()
    public_key: bytes | None = None
    findings: list[Finding] = field(default_factory=list)
    size: int = 0
    head: str = GENESIS
    root: bytes = EMPTY_ROOT

    def run(self, events: Iterable[LoggedEvent]) -> list[Finding]:
        """Check everything; returns the findings, first sequence number first."""
        wanted = self._expected_roots()
        frontier = Frontier()
        expected_seq = 1
        for event in events:
            if event.seq > expected_seq:
                self._find(FindingCode.EVENT_MISSING, expected_seq, f"events {expected_seq}–{event.seq - 1}")
            elif event.seq < expected_seq:
                self._find(FindingCode.EVENT_OUT_OF_ORDER, event.seq, f"event {event.seq}")
            if event.prev_hash != self.head:
                self._find(FindingCode.CHAIN_BROKEN, event.seq, f"event {event.seq}", self.head, event.prev_hash)
            computed = event_hash(event.prev_hash, event.body)
            if event.body.get("seq") != event.seq or computed != event.hash:
                self._find(FindingCode.EVENT_EDITED, event.seq, f"event {event.seq}", event.hash, computed)
            frontier.append(leaf_of(event.hash))
            expected_seq = event.seq + 1
            self.head = event.hash
            self.size = frontier.size
            for root in wanted.pop(frontier.size, ()):
                if root != frontier.root():
                    self._find(
                        FindingCode.HISTORY_REWRITTEN,
                        frontier.size,
                        f"checkpoint at {frontier.size}",
                        root.hex(),
                        frontier.root().hex(),
                    )
        self.root = frontier.root()
        for size in sorted(wanted):
            if size > 0:
                self._find(FindingCode.TAIL_CUT, self.size + 1, f"checkpoint at {size}", str(size), str(self.size))
        self.findings.sort(key=lambda f: (f.seq is None, f.seq or 0))
        return self.findings

    def _expected_roots(self) -> dict[int, list[bytes]]:
        wanted: dict[int, list[bytes]] = {}
        for number, note in enumerate(self.checkpoints, 1):
            if self.public_key is None:
                self._find(
                    FindingCode.CHECKPOINT_FORGED, None, f"checkpoint {number}", "a key to check it with", "none"
                )
                continue
            try:
                signed = checkpoints.verify(note, self.public_key)
            except IntegrityError as error:
                self._find(FindingCode.CHECKPOINT_FORGED, None, f"checkpoint {number}", error.expected, error.found)
                continue
            wanted.setdefault(signed.size, []).append(signed.root)
        return wanted

    def _find(
        self, code: FindingCode, seq: int | None, what: str, expected: str | None = None, found: str | None = None
    ) -> None:
        self.findings.append(Finding(code, seq, what, expected, found))


def leaf_of(hash_text: str) -> bytes:
    """The Merkle leaf of an event: its hash as bytes; of a hash that was tampered into no hex, its text."""
    try:
        return bytes.fromhex(hash_text)
    except ValueError:
        return hash_text.encode()


@dataclass(frozen=True)
class RowClaim:
    """What the last event about a row says: the digest it had after the change, None when it was deleted."""

    table: str
    key: Hashable
    digest: str | None
    seq: int


def check_rows(
    claims: Mapping[tuple[str, Hashable], RowClaim], rows: Iterable[tuple[str, Hashable, str]]
) -> Iterator[Finding]:
    """Hold the rows that are there (table, key, digest) against the last claim about each.

    Findings come in no particular order: a row that differs, one no event explains, one that is gone.
    """
    seen: set[tuple[str, Hashable]] = set()
    for table, key, digest in rows:
        seen.add((table, key))
        claim = claims.get((table, key))
        if claim is None:
            yield Finding(FindingCode.ROW_UNEXPLAINED, None, f"{table} {key}", None, digest)
        elif claim.digest is None:
            yield Finding(FindingCode.ROW_UNEXPLAINED, claim.seq, f"{table} {key}", "deleted", digest)
        elif claim.digest != digest:
            yield Finding(FindingCode.ROW_EDITED, claim.seq, f"{table} {key}", claim.digest, digest)
    for place, claim in claims.items():
        if claim.digest is not None and place not in seen:
            yield Finding(FindingCode.ROW_MISSING, claim.seq, f"{claim.table} {claim.key}", claim.digest, None)
