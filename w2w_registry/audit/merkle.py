"""Merkle trees of RFC 9162 §2.1: root, inclusion and consistency proofs, and their verification.

Leaves are bytes (here: event hashes); ``0x00`` and ``0x01`` in front keep leaves and nodes apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()
Node = Callable[[int, int], bytes]
"""MTH(D[start:end]) of a tree whose leaves are elsewhere: in a list, in tiles."""


def leaf_hash(leaf: bytes) -> bytes:
    """§2.1.1: SHA-256 of ``0x00 || leaf``."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """§2.1.1: SHA-256 of ``0x01 || left || right``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: its root after each leaf, in memory that grows with the logarithm."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add the next leaf."""
        node = leaf_hash(leaf)
        size = self.size
        while size & 1:
            node = node_hash(self._peaks.pop(), node)
            size >>= 1
        self._peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """§2.1.1: MTH of the leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


def root(leaves: Iterable[bytes]) -> bytes:
    """§2.1.1: MTH(leaves)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """§2.1.3.1: PATH(index, leaves): the nodes that lead from one leaf to the root.

    Raises:
        IndexError: no such leaf.
    """
    return inclusion_path(index, len(leaves), lambda start, end: root(leaves[start:end]))


def inclusion_path(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """As :func:`inclusion_proof`, of a tree of ``size`` leaves of which ``node`` tells.

    Raises:
        IndexError: no such leaf.
    """
    if not 0 <= index < size:
        raise IndexError(index)
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(node(middle, end))
            end = middle
        else:
            path.append(node(start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """§2.1.4.1: PROOF(old_size, leaves): that the first ``old_size`` leaves are still what they were.

    Raises:
        IndexError: ``old_size`` is not between 1 and the number of leaves.
    """
    return consistency_path(old_size, len(leaves), lambda start, end: root(leaves[start:end]))


def consistency_path(old_size: int, size: int, node: Node) -> tuple[bytes, ...]:
    """As :func:`consistency_proof`, of a tree of ``size`` leaves of which ``node`` tells.

    Raises:
        IndexError: ``old_size`` is not between 1 and ``size``.
    """
    if not 1 <= old_size <= size:
        raise IndexError(old_size)
    proof: list[bytes] = []
    start, end, whole = 0, size, True
    wanted = old_size
    while wanted != end - start:
        middle = _split(end - start)
        if wanted <= middle:
            proof.append(node(start + middle, end))
            end = start + middle
        else:
            proof.append(node(start, start + middle))
            start += middle
            wanted -= middle
            whole = False
    if not whole:
        proof.append(node(start, end))
    return tuple(reversed(proof))


def _split(count: int) -> int:
    """The largest power of two smaller than ``count`` (k in the RFC)."""
    return 1 << ((count - 1).bit_length() - 1)
