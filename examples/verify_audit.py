"""Check an exported audit log without the registry: standard library and `cryptography` only.

    python verify_audit.py LOG.jsonl [--key HEX] [--checkpoint NOTE.txt] [--proof PROOF.json]

LOG.jsonl comes from `w2w-reg audit export`, PROOF.json from `w2w-reg audit prove`. Give --key the public key you
were told over another channel (the one in the file proves nothing about who wrote it), and --checkpoint a signed
checkpoint you kept yourself: a log that was cut or rewritten since then is found.

Exit status: 0 everything holds, 1 something does not (each finding on a line, first bad sequence first), 2 usage.
"""

import argparse
import base64
import hashlib
import json
import sys

GENESIS = "0" * 64


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data):
    return hashlib.sha256(data).digest()


def event_hash(prev, body):
    return sha256(canonical({"body": body, "prev": prev}).encode()).hex()


class Tree:
    """RFC 9162 tree hash of a growing list."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def append(self, leaf):
        node, size = sha256(b"\x00" + leaf), self.size
        while size & 1:
            node, size = sha256(b"\x01" + self.peaks.pop() + node), size >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self):
        if not self.peaks:
            return sha256(b"")
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = sha256(b"\x01" + peak + node)
        return node


def open_note(note, public):
    """Size and root of a signed note (c2sp.org/signed-note), or a ValueError saying what is wrong with it."""
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
    return int(lines[1]), base64.b64decode(lines[2])


def path_root(leaf, index, size, path):
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


def check_log(stream, key=None, kept=()):
    """(number of events, number of checkpoints that hold, findings as (sequence, text))."""
    header = json.loads(next(stream, "null"))
    if not isinstance(header, dict) or header.get("format") != "w2w-registry audit log" or header.get("version") != 1:
        return 0, 0, [(0, "not an exported audit log of version 1")]
    public = bytes.fromhex(key or header["public_key"] or "")
    findings, notes, roots, tree = [], list(kept), {}, Tree()
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
        tree.append(leaf)
        roots[tree.size] = tree.root()
        prev, expected = entry["hash"], seq + 1
    held = 0
    for note in notes:
        try:
            size, root = open_note(note, public)
        except ValueError as error:
            findings.append((0, f"checkpoint: {error}"))
            continue
        if size > tree.size:
            findings.append((tree.size + 1, f"the log was cut: a checkpoint speaks of {size} events"))
        elif size and roots[size] != root:
            findings.append((size, f"history before event {size} is not what was signed"))
        else:
            held += 1
    return tree.size, held, sorted(findings)


def check_proof(proof, key=None):
    """Findings about one inclusion proof."""
    event, findings = proof["event"], []
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
            if open_note(proof["checkpoint"], bytes.fromhex(key)) != (proof["size"], root):
                findings.append((0, "the checkpoint is of another tree"))
        except ValueError as error:
            findings.append((0, f"checkpoint: {error}"))
    return findings


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check an exported audit log.")
    parser.add_argument("log", nargs="?", help="file written by: w2w-reg audit export")
    parser.add_argument("--key", help="public key (hex) checkpoints must be signed with")
    parser.add_argument("--checkpoint", action="append", default=[], help="a signed checkpoint kept elsewhere")
    parser.add_argument("--proof", help="file written by: w2w-reg audit prove")
    options = parser.parse_args(arguments)
    if not options.log and not options.proof:
        parser.error("give a log, a --proof, or both")
    findings = []
    if options.log:
        kept = []
        for path in options.checkpoint:
            with open(path, encoding="utf-8") as stream:
                kept.append(stream.read())
        with open(options.log, encoding="utf-8") as stream:
            events, held, findings = check_log(stream, options.key, kept)
        print(f"{events} events, {held} checkpoints hold")
    if options.proof:
        with open(options.proof, encoding="utf-8") as stream:
            findings += check_proof(json.load(stream), options.key)
    for seq, text in findings:
        print(f"{seq or '-'}: {text}")
    print("FAILED" if findings else "OK")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
