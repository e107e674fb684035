"""Check an exported audit log without the registry: standard library and ``cryptography`` only.

    verify-audit LOG.jsonl [--key HEX] [--checkpoint NOTE.txt] [--proof PROOF.json]

Installed with w2w-registry; this file alone does it as well (``python verifier.py …``), for whoever trusts neither.

LOG.jsonl comes from `w2w-reg audit export`, PROOF.json from `w2w-reg audit prove`. Give --key the public key you
were told over another channel (the one in the file proves nothing about who wrote it), and --checkpoint a signed
checkpoint you kept yourself: a log that was cut, forked, rewritten or rolled back since then is found, and so are a
checkpoint that the log speaks of and that is gone, an event decided under a policy that was never put in force, and
time that runs back. A clock that was set back, and [policy] tables that were tried and ignored, are noted.

Exit status: 0 everything holds, 1 something does not (each finding on a line, first bad sequence first), 2 usage.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
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
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    body, _, tail = note.partition("\n\n")
    lines = body.split("\n")
    words = tail.rstrip("\n").split(" ")
    if len(lines) < 3 or len(words) != 3 or words[1] != lines[0]:
        raise ValueError("not a signed checkpoint")
    blob = base64.b64decode(words[2])
    if blob[:4] != sha256(lines[0].encode() + b"\n\x01" + public)[:4]:
        raise ValueError("signed by another key")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(blob[4:], (body + "\n").encode())
    except InvalidSignature:
        raise ValueError("the signature does not hold") from None
    time = next((line.removeprefix("time ") for line in lines if line.startswith("time ")), "")
    return int(lines[1]), base64.b64decode(lines[2]), time


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
    """Findings about one inclusion proof."""
    event = proof["event"]
    findings: list[Finding] = []
    if event_hash(event["prev"], event["body"]) != event["hash"] or event["body"]["seq"] != proof["index"] + 1:
        findings.append((proof["index"] + 1, "the event was edited"))
    root = bytes.fromhex(proof["root"])
    path = [bytes.fromhex(node) for node in proof["path"]]
    if path_root(bytes.fromhex(event["hash"]), proof["index"], proof["size"], path) != root:
        findings.append((proof["index"] + 1, "the path does not lead to the root"))
    if proof["checkpoint"] is None:
        findings.append((0, "the root is not signed: no checkpoint of that size"))
    elif key is None:
        findings.append((0, "give --key to check the signature"))
    else:
        try:
            if open_note(proof["checkpoint"], bytes.fromhex(key))[:2] != (proof["size"], root):
                findings.append((0, "the checkpoint is of another tree"))
        except ValueError as error:
            findings.append((0, f"checkpoint: {error}"))
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check an exported audit log.")
    parser.add_argument("log", nargs="?", help="file written by: w2w-reg audit export")
    parser.add_argument("--key", help="public key (hex) checkpoints must be signed with")
    parser.add_argument("--checkpoint", action="append", default=[], help="a signed checkpoint kept elsewhere")
    parser.add_argument("--proof", help="file written by: w2w-reg audit prove")
    options = parser.parse_args(arguments)
    if not options.log and not options.proof:
        parser.error("give a log, a --proof, or both")
    findings: list[Finding] = []
    notices: list[Finding] = []
    if options.log:
        kept = []
        for path in options.checkpoint:
            with open(path, encoding="utf-8") as stream:
                kept.append(stream.read())
        with open(options.log, encoding="utf-8") as stream:
            events, held, findings = check_log(stream, options.key, kept, notices)
        print(f"{events} events, {held} checkpoints hold")
        for seq, text in notices:
            print(f"{seq}: note: {text}")
    if options.proof:
        with open(options.proof, encoding="utf-8") as stream:
            findings += check_proof(json.load(stream), options.key)
    for seq, text in findings:
        print(f"{seq or '-'}: {text}")
    print("FAILED" if findings else "OK")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
