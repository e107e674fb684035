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
carry (NAME+ID+KEY, as `w2w-reg audit witness` prints it).

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


class Tree:
    """RFC 9162 tree hash of a growing list."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        node, size = sha256(b"\x00" + leaf), self.size
        while size & 1:
            node, size = sha256(b"\x01" + self.peaks.pop() + node), size >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return sha256(b"")
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = sha256(b"\x01" + peak + node)
        return node


def open_note(note: str, public: bytes) -> tuple[int, bytes, str]:
    """Size, root and time of a signed note (c2sp.org/signed-note), or a ValueError saying what is wrong with it."""
    body, signatures = split_note(note)
    lines = body.splitlines()
    if not lines or not any(name == lines[0] for name, _ in signatures):
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
    signatures = []
    for line in tail.splitlines():
        words = line.split(" ")
        if len(words) != 3 or words[0] != "—":
            raise ValueError("not a signed checkpoint")
        signatures.append((words[1], base64.b64decode(words[2])))
    if len(body.splitlines()) < 3:
        raise ValueError("not a signed checkpoint")
    return body + "\n", signatures


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


def extends(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path shows that the tree of ``size`` leaves begins with that of ``old_size`` (RFC 9162, §2.1.4.2)."""
    if old_size == size:
        return not path and old_root == root
    if not 0 < old_size < size or not path:
        return False
    nodes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    first, last = old_size - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old, new = sha256(b"\x01" + sibling + old), sha256(b"\x01" + sibling + new)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            new = sha256(b"\x01" + new + sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and (old, new) == (old_root, root)


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
        count = end - start
        if count & (count - 1):
            middle = start + (1 << (count.bit_length() - 1))
            return sha256(b"\x01" + self.node(start, middle) + self.node(middle, end))
        level, above = divmod(count.bit_length() - 1, 8)
        first = start >> (8 * level)
        hashes = [self.hash(level, first + i) for i in range(1 << above)]
        while len(hashes) > 1:
            hashes = [sha256(b"\x01" + hashes[i] + hashes[i + 1]) for i in range(0, len(hashes), 2)]
        return hashes[0]

    def hash(self, level: int, index: int) -> bytes:
        tile, place = divmod(index, 256)
        if (level, tile) not in self.tiles:
            width = min(256, (self.size >> (8 * level)) - tile * 256)
            groups = [f"{tile % 1000:03d}"]
            number = tile
            while number := number // 1000:
                groups.insert(0, f"x{number % 1000:03d}")
            data = self.read(f"tile/{level}/{'/'.join(groups)}" + ("" if width == 256 else f".p/{width}"))
            if len(data) != 32 * width:
                raise ValueError(f"tile {level}/{tile} is not whole")
            self.tiles[level, tile] = data
        return self.tiles[level, tile][32 * place : 32 * place + 32]

    def consistency(self, old_size: int) -> list[bytes]:
        """The path that shows that this tree begins with one of ``old_size`` leaves (§2.1.4.1)."""
        path, start, end, wanted, whole = [], 0, self.size, old_size, True
        while wanted != end - start:
            half = 1 << ((end - start - 1).bit_length() - 1)
            if wanted <= half:
                path.append(self.node(start + half, end))
                end = start + half
            else:
                path.append(self.node(start, start + half))
                start, wanted, whole = start + half, wanted - half, False
        if not whole:
            path.append(self.node(start, end))
        return path[::-1]


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


def path_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Root that an RFC 9162 inclusion path leads to (§2.1.3.2), None when the path has the wrong length."""
    position, last, node = index, size - 1, sha256(b"\x00" + leaf)
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            node = sha256(b"\x01" + sibling + node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + sibling)
        position, last = position >> 1, last >> 1
    return node if last == 0 else None


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
        self.at = max(self.at, at)
        self.times.append(self.at)
        if body.get("policy") != self.policy:
            self.findings.append((seq, f"event {seq} was decided under a policy that was not in force"))
        if action == "policy.set":
            self.policy = payload.get("digest")
        elif action == "audit.checkpoint":
            self.checkpoints[str(payload.get("note"))] = seq
        elif action == "clock.back":
            self.notices.append((seq, f"the clock was set back by {payload.get('seconds')} seconds"))
        elif action == "policy.ignored":
            self.notices.append((seq, f"{body.get('actor')} tried a policy that is not in force"))

    def dropped(self, notes: Iterable[str]) -> Iterator[Finding]:
        """The checkpoints that the log speaks of and that are not there."""
        present = {sha256(canonical(note).encode()).hex() for note in notes}
        for digest, seq in self.checkpoints.items():
            if digest not in present:
                yield seq, f"the checkpoint of event {seq} is gone"


def check_log(
    stream: Iterator[str], key: str | None = None, kept: Sequence[str] = (), notices: list[Finding] | None = None
) -> tuple[int, int, list[Finding]]:
    """(number of events, number of checkpoints that hold, findings as (sequence, text)); ``notices`` is added to."""
    header = json.loads(next(stream, "null"))
    if not isinstance(header, dict) or header.get("format") != "w2w-registry audit log" or header.get("version") != 1:
        return 0, 0, [(0, "not an exported audit log of version 1")]
    public = bytes.fromhex(key or header["public_key"] or "")
    findings: list[Finding] = []
    notes, roots, tree, story = list(kept), [sha256(b"")], Tree(), Story()
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
        tree.append(leaf)
        roots.append(tree.root())
        prev, expected = entry["hash"], seq + 1
    held = 0
    for note in notes:
        try:
            size, root, time = open_note(note, public)
        except ValueError as error:
            findings.append((0, f"checkpoint: {error}"))
            continue
        if size > tree.size:
            findings.append((tree.size + 1, f"the log was cut: a checkpoint speaks of {size} events"))
        elif size and roots[size] != root:
            findings.append((size, f"history before event {size} is not what was signed"))
        elif any(at and at < time for at in story.times[size : size + 1]):
            findings.append((size + 1, f"event {size + 1} says it was before the checkpoint that precedes it"))
        else:
            held += 1
    findings += [*story.findings, *story.dropped(notes)]
    if notices is not None:
        notices += story.notices
    return tree.size, held, sorted(findings)


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
        why = (
            "give --key to check the signature" if key is None else "the root is not signed: no checkpoint of that size"
        )
        return [*findings, (0, why)]
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
        print(f"{events} events, {held} checkpoints hold")
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
