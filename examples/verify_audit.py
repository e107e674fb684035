"""Check a registry's audit log without the registry: standard library and ``cryptography`` only.

    verify-audit [LOG.jsonl] [--published FOLDER|URL] [--key HEX] [--checkpoint NOTE.txt]... [--witness VKEY]...
                 [--proof PROOF.json]

Installed with w2w-registry; this file alone does it as well (``python verifier.py …``), for whoever trusts neither.

LOG.jsonl comes from `w2w-reg audit export`, PROOF.json from `w2w-reg audit prove`, the folder or address from
`w2w-reg audit publish`. Give --key the public key you were told over another channel (the one in the file proves
nothing about who wrote it), and --checkpoint a signed checkpoint you kept yourself: a log that was cut, forked,
rewritten or rolled back since then is found, and so are a checkpoint that the log speaks of and that is gone, an event
decided under a policy that was never put in force, and time that runs back. A clock that was set back, and [policy]
tables that were tried and ignored, are noted. --witness names somebody whose cosignature the newest checkpoint must
carry (NAME+ID+KEY, as `w2w-reg audit witness` prints it). Of what is published only those tiles are read that lead to
the checkpoints: LOG.jsonl checks every event.

Exit status: 0 everything holds, 1 something does not (each finding on a line, first bad sequence first), 2 usage, or a
file that cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
Finding = tuple[int, str]


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def event_hash(prev: Any, body: Any) -> str:
    return sha256(canonical({"body": body, "prev": prev}).encode()).hex()


def parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def grow(peaks: list[bytes], size: int, leaf: bytes) -> bytes:
    """RFC 9162 root of a list once ``leaf`` has followed its ``size`` first ones, for which ``peaks`` stand."""
    node = sha256(b"\x00" + leaf)
    while size & 1:
        node, size = parent(peaks.pop(), node), size >> 1
    peaks.append(node)
    return reduce(lambda node, peak: parent(peak, node), reversed(peaks))


def open_note(note: str, public: bytes) -> tuple[int, bytes, str]:
    """Size, root and time of a signed note (c2sp.org/signed-note), or a ValueError saying what is wrong with it."""
    body, signatures = split_note(note)
    lines = body.splitlines()
    if not any(name == lines[0] for name, _ in signatures):
        raise ValueError("not a signed checkpoint")
    identifier = sha256(lines[0].encode() + b"\n\x01" + public)[:4]
    mine = [blob for name, blob in signatures if name == lines[0] and blob[:4] == identifier]
    if not mine:
        raise ValueError("signed by another key")
    if not any(holds(public, blob[4:], body.encode()) for blob in mine):
        raise ValueError("the signature does not hold")
    time = next((line.removeprefix("time ") for line in lines if line.startswith("time ")), "")
    return int(lines[1]), base64.b64decode(lines[2]), time


def split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """The text that is signed, and (name, what follows it) of every signature line."""
    body, _, tail = note.partition("\n\n")
    lines = [line.split(" ") for line in tail.splitlines()]
    if len(body.splitlines()) < 3 or any(len(words) != 3 or words[0] != "—" for words in lines):
        raise ValueError("not a signed checkpoint")
    return body + "\n", [(name, base64.b64decode(blob)) for _, name, blob in lines]


def holds(public: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    with suppress(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return True
    return False


def cosigned(note: str, vkey: str) -> int | None:
    """When a witness cosigned (c2sp.org/tlog-cosignature; seconds since 1970), None when it did not."""
    name, identifier, key64 = vkey.strip().split("+", 2)
    key = base64.b64decode(key64)
    if len(key) != 33 or key[0] != 4 or sha256(name.encode() + b"\n" + key)[:4].hex() != identifier:
        raise ValueError(f"{name} is not a witness's key: NAME+ID+KEY")
    body, signatures = split_note(note)
    for signer, blob in signatures:
        if signer == name and blob[:4].hex() == identifier and len(blob) == 76:
            second = int.from_bytes(blob[4:12], "big")
            if holds(key[1:], blob[12:], f"cosignature/v1\ntime {second}\n{body}".encode()):
                return second
    return None


def climb(position: int, last: int, node: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Roots that an RFC 9162 path leads to from a node: of the leaves up to it and of all (None: a wrong length)."""
    left = whole = node
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            left, whole = parent(sibling, left), parent(sibling, whole)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            whole = parent(whole, sibling)
        position, last = position >> 1, last >> 1
    return (left, whole) if last == 0 else None


def path_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Root that an inclusion path leads to (§2.1.3.2), None when the path has the wrong length."""
    roots = climb(index, size - 1, sha256(b"\x00" + leaf), path)
    return roots and roots[1]


def extends(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path shows that the tree of ``size`` leaves begins with that of ``old_size`` (§2.1.4.2)."""
    if old_size == size:
        return not path and old_root == root
    if not 0 < old_size < size or not path:
        return False
    first, *others = [old_root, *path] if old_size & (old_size - 1) == 0 else path
    level = (old_size & -old_size).bit_length() - 1  # of the node that the path starts from
    return climb((old_size - 1) >> level, (size - 1) >> level, first, others) == (old_root, root)


class Published:
    """A log as tiles (c2sp.org/tlog-tiles) in a folder or at an address. What the host says is checked, not trusted."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.size = 0

    def read(self, path: str) -> bytes:
        if not self.source.startswith(("http://", "https://")):
            return (Path(self.source) / path).read_bytes()
        with urllib.request.urlopen(f"{self.source.rstrip('/')}/{path}", timeout=30) as answer:
            return bytes(answer.read(1 << 20))

    def node(self, start: int, end: int) -> bytes:
        """The root over the leaves from ``start`` to ``end``."""
        level = ((end - start).bit_length() - 1) // 8
        if end - start == 1 << 8 * level:
            return self.hash(level, start >> 8 * level)
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        return parent(self.node(start, middle), self.node(middle, end))

    def hash(self, level: int, index: int) -> bytes:
        tile, place = divmod(index, 256)
        if (level, tile) not in self.tiles:
            width = min(256, (self.size >> (8 * level)) - tile * 256)
            *thousands, units = (group.zfill(3) for group in f"{tile:,}".split(","))
            name = "".join(f"x{group}/" for group in thousands) + units
            data = self.read(f"tile/{level}/{name}" + ("" if width == 256 else f".p/{width}"))
            if len(data) != 32 * width:
                raise ValueError(f"tile {level}/{tile} is not whole")
            self.tiles[level, tile] = data
        return self.tiles[level, tile][32 * place : 32 * place + 32]

    def consistency(self, old_size: int) -> list[bytes]:
        """The path that shows that this tree begins with one of ``old_size`` leaves (§2.1.4.1)."""
        return self._path(old_size, 0, self.size, True)

    def _path(self, wanted: int, start: int, end: int, known: bool) -> list[bytes]:
        if wanted == end - start:
            return [] if known else [self.node(start, end)]
        half = 1 << ((end - start - 1).bit_length() - 1)
        if wanted <= half:
            return [*self._path(wanted, start, start + half, known), self.node(start + half, end)]
        return [*self._path(wanted - half, start + half, end, False), self.node(start, start + half)]


def check_published(source: str, key: str, kept: Sequence[str] = (), witnesses: Sequence[str] = ()) -> list[Finding]:
    """Findings about a published log: whether its tiles lead to its checkpoint, whether that extends every checkpoint
    in ``kept``, and who has not cosigned it."""
    log = Published(source)
    try:
        note = log.read("checkpoint").decode()
        log.size, root, time = open_note(note, bytes.fromhex(key))
        if log.size and log.node(0, log.size) != root:
            return [(0, f"the tiles of {source} do not lead to its checkpoint")]
    except (OSError, ValueError) as error:
        return [(0, f"{source}: {error}")]
    findings: list[Finding] = []
    for old in kept:
        try:
            size, old_root, old_time = open_note(old, bytes.fromhex(key))
            if size > log.size:
                findings.append((log.size + 1, f"the log was cut: a checkpoint speaks of {size} events"))
            elif size and not extends(size, old_root, log.size, root, log.consistency(size)):
                findings.append((size, f"history before event {size} is not what was signed"))
            elif old_time > time:
                findings.append((log.size, "the newest checkpoint says it was before one that it follows"))
        except (OSError, ValueError) as error:
            findings.append((0, f"checkpoint: {error}"))
    return findings + check_witnesses(note, witnesses)


def check_witnesses(note: str, witnesses: Sequence[str]) -> list[Finding]:
    """A finding for every witness that has not cosigned."""
    return [(0, f"{key.split('+')[0]} has not cosigned it") for key in witnesses if cosigned(note, key) is None]


class Story:
    """What events say of one another: the policy in force, the checkpoints signed, the time."""

    def __init__(self) -> None:
        self.at = ""
        self.policy: Any = None
        self.checkpoints: dict[str, int] = {}
        self.findings: list[Finding] = []
        self.notices: list[Finding] = []
        self.times: list[str] = []

    def add(self, body: dict[str, Any]) -> None:
        seq, action, payload = int(body["seq"]), body.get("action"), body.get("payload") or {}
        at = str(body.get("at", ""))
        if not at[:4].isdigit():
            at = self.at  # not a time: the hash has nothing against it, and neither has the order
        if at < self.at:
            self.findings.append((seq, f"time runs back: event {seq} is before the one before it"))
        self.at = at
        self.times.append(max(self.times[-1], at) if self.times else at)
        if body.get("policy") != self.policy:
            self.findings.append((seq, f"event {seq} was decided under a policy that was not in force"))
        if action == "policy.set":
            self.policy = payload.get("digest")
        elif action == "audit.checkpoint":
            self.checkpoints[str(payload.get("note"))] = seq
        elif action == "clock.back":
            self.notices.append((seq, f"the clock was set back by {payload.get('seconds')} seconds"))
        elif action == "clock.lost":
            self.notices.append((seq, "the file that says when it was last used was gone, or not as it was left"))
        elif action == "clock.off":
            self.notices.append((seq, f"the clock was {payload.get('seconds')} seconds ahead of the database server's"))
        elif action == "policy.ignored":
            self.notices.append((seq, f"{body.get('actor')} tried a policy that is not in force"))

    def dropped(self, notes: Iterable[str]) -> list[Finding]:
        """The checkpoints that the log speaks of and that are not there."""
        present = {sha256(canonical(note).encode()).hex() for note in notes}
        gone = [seq for digest, seq in self.checkpoints.items() if digest not in present]
        return [(seq, f"the checkpoint of event {seq} is gone") for seq in gone]


def check_log(
    stream: Iterator[str], key: str | None = None, kept: Sequence[str] = (), notices: list[Finding] | None = None
) -> tuple[int, int, list[Finding]]:
    """(number of events, number of checkpoints that hold, findings as (sequence, text)); ``notices`` is added to."""
    header = json.loads(next(stream, "null"))
    if not isinstance(header, dict) or header.get("format") != "w2w-registry audit log" or header.get("version") != 1:
        return 0, 0, [(0, "not an exported audit log of version 1")]
    public = bytes.fromhex(key or header["public_key"] or "")
    findings: list[Finding] = []
    notes, roots, peaks, story = list(kept), [sha256(b"")], list[bytes](), Story()
    prev, expected = GENESIS, 1
    for line in stream:
        try:
            entry = json.loads(line)
            if "checkpoint" in entry:
                notes.append(entry["checkpoint"])
                continue
            body, seq, leaf = entry["body"], int(entry["body"]["seq"]), bytes.fromhex(entry["hash"])
        except (ValueError, TypeError, KeyError):
            findings.append((expected, "a line that is not an event"))
            continue
        if seq != expected:
            findings.append((expected, f"event {expected} expected, found {seq}"))
        if entry.get("prev") != prev:
            findings.append((seq, f"event {seq} does not follow the one before it"))
        if event_hash(entry.get("prev"), body) != entry["hash"]:
            findings.append((seq, f"event {seq} was edited"))
        story.add(body)
        roots.append(grow(peaks, len(roots) - 1, leaf))
        prev, expected = entry["hash"], seq + 1
    events, held = len(roots) - 1, 0
    for note in notes:
        try:
            size, root, time = open_note(note, public)
        except ValueError as error:
            findings.append((0, f"checkpoint: {error}"))
            continue
        if size > events:
            findings.append((events + 1, f"the log was cut: a checkpoint speaks of {size} events"))
        elif size and roots[size] != root:
            findings.append((size, f"history before event {size} is not what was signed"))
        elif any(at and at < time for at in story.times[size : size + 1]):
            findings.append((size + 1, f"event {size + 1} says it was before the checkpoint that precedes it"))
        else:
            held += 1
    findings += [*story.findings, *story.dropped(notes)]
    if notices is not None:
        notices += story.notices
    return events, held, sorted(findings)


def check_proof(proof: dict[str, Any], key: str | None = None) -> list[Finding]:
    """Findings about one proof: that an event is in the log, or that one checkpoint extends another."""
    if "old" in proof:
        return check_extension(proof, key)
    event = proof["event"]
    findings: list[Finding] = []
    if event_hash(event["prev"], event["body"]) != event["hash"] or event["body"]["seq"] != proof["index"] + 1:
        findings.append((proof["index"] + 1, "the event was edited"))
    root = bytes.fromhex(proof["root"])
    path = [bytes.fromhex(node) for node in proof["path"]]
    if path_root(bytes.fromhex(event["hash"]), proof["index"], proof["size"], path) != root:
        findings.append((proof["index"] + 1, "the path does not lead to the root"))
    if proof["checkpoint"] is None or key is None:
        unsigned = "the root is not signed: no checkpoint of that size"
        return [*findings, (0, unsigned if key else "give --key to check the signature")]
    try:
        if open_note(proof["checkpoint"], bytes.fromhex(key))[:2] != (proof["size"], root):
            findings.append((0, "the checkpoint is of another tree"))
    except ValueError as error:
        findings.append((0, f"checkpoint: {error}"))
    return findings


def check_extension(proof: dict[str, Any], key: str | None) -> list[Finding]:
    if key is None:
        return [(0, "give --key to check the signatures")]
    try:
        old, new = (open_note(proof[which], bytes.fromhex(key)) for which in ("old", "new"))
    except ValueError as error:
        return [(0, f"checkpoint: {error}")]
    if not extends(*old[:2], *new[:2], [bytes.fromhex(node) for node in proof["path"]]):
        return [(old[0], f"the log of {new[0]} events does not begin with the one of {old[0]}")]
    return [(new[0], "the later checkpoint says it was before the earlier one")] if new[2] < old[2] else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a registry's audit log.")
    parser.add_argument("log", nargs="?", help="file written by: w2w-reg audit export")
    parser.add_argument("--published", metavar="FOLDER|URL", help="what `w2w-reg audit publish` wrote (needs --key)")
    parser.add_argument("--key", help="public key (hex) checkpoints must be signed with")
    parser.add_argument("--checkpoint", action="append", default=[], help="a signed checkpoint kept elsewhere")
    parser.add_argument("--witness", action="append", default=[], help="key of a witness that must have cosigned")
    parser.add_argument("--proof", help="file written by: w2w-reg audit prove")
    options = parser.parse_args(arguments)
    if not options.log and not options.proof and not options.published:
        parser.error("give a log, --published, a --proof, or several of them")
    if options.published and not options.key:
        parser.error("--published needs --key: the key has to come from somewhere else than the log")
    try:
        return _report(options)
    except (OSError, ValueError, LookupError, TypeError) as error:  # no such file, or not what the registry writes
        print(f"cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _report(options: argparse.Namespace) -> int:
    """Check what was given, and print what was found."""
    findings, notices = list[Finding](), list[Finding]()
    kept = [Path(path).read_text("utf-8") for path in options.checkpoint]
    if options.published:
        findings += check_published(options.published, options.key, kept, options.witness)
        if not findings:
            kept.append(Published(options.published).read("checkpoint").decode())
    elif options.witness:
        newest = max(kept, key=lambda note: int(split_note(note)[0].splitlines()[1]), default=None)
        findings += check_witnesses(newest, options.witness) if newest else [(0, "--witness needs a checkpoint")]
    if options.log:
        with open(options.log, encoding="utf-8") as stream:
            events, held, found = check_log(stream, options.key, kept, notices)
        findings += found
        print(f"{events} event{'s'[: events != 1]}, {held} checkpoint{'s'[: held != 1]} checked")
        for seq, text in notices:
            print(f"{seq}: note: {text}")
    if options.proof:
        findings += check_proof(json.loads(Path(options.proof).read_text("utf-8")), options.key)
    for seq, text in findings:
        print(f"{seq or '-'}: {text}")
    print("FAILED" if findings else "OK")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
