"""The log as tiles (c2sp.org/tlog-tiles): files that any static host serves and that never change once they are full.

A tile holds up to 256 hashes of one height; ``tile/0`` holds leaf hashes, each hash of ``tile/L`` is the root of a full
tile of ``tile/L-1``. The entries are event hashes, 32 bytes each: the folder does not hold what happened, only what
fixes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from w2w_registry.audit.merkle import leaf_hash, node_hash

WIDTH = 256
"""Hashes in a full tile."""
HEIGHT = 8
HASH = 32
CHECKPOINT = "checkpoint"
"""The newest signed note, beside the tiles."""


def path_of(level: int | str, index: int, width: int = WIDTH) -> str:
    """Where a tile is: ``tile/0/x001/x234/067``, with ``.p/W`` behind it while it is not full. ``level``: a number, or
    ``entries``."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.append(f"x{index % 1000:03d}")
    whole = f"tile/{level}/{'/'.join(reversed(parts))}"
    return whole if width == WIDTH else f"{whole}.p/{width}"


def files(leaves: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Every file of a tree with these leaves (32 bytes each), as (path, content): full tiles as they fill, then what
    is not full. Memory grows with the logarithm of the tree."""
    levels: list[list[bytes]] = [[]]
    indices = [0]
    entries: list[bytes] = []

    def rise(level: int) -> Iterator[tuple[str, bytes]]:
        full, index = levels[level], indices[level]
        yield path_of(level, index), b"".join(full)
        levels[level], indices[level] = [], index + 1
        if level + 1 == len(levels):
            levels.append([])
            indices.append(0)
        levels[level + 1].append(_root(full))
        if len(levels[level + 1]) == WIDTH:
            yield from rise(level + 1)

    for leaf in leaves:
        entries.append(leaf)
        levels[0].append(leaf_hash(leaf))
        if len(entries) == WIDTH:
            yield path_of("entries", indices[0]), _bundle(entries)
            entries = []
            yield from rise(0)
    if entries:
        yield path_of("entries", indices[0], len(entries)), _bundle(entries)
    for level, hashes in enumerate(levels):
        if hashes:
            yield path_of(level, indices[level], len(hashes)), b"".join(hashes)


class TileReader:
    """Nodes of a tree of ``size`` leaves, from its tiles. What they say is only what the host says: proofs made from
    them are checked against signed roots. ``fetch``: path -> content; it raises what it likes when there is none."""

    def __init__(self, size: int, fetch: Callable[[str], bytes]) -> None:
        self.size = size
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], bytes] = {}

    def node(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]), the interval being one that RFC 9162's trees have.

        Raises:
            ValueError: a tile of another length than its name says. Whatever ``fetch`` raises.
        """
        count = end - start
        whole = 1 << (count.bit_length() - 1)
        if whole != count:
            return node_hash(self.node(start, start + whole), self.node(start + whole, end))
        height = count.bit_length() - 1
        level, above = divmod(height, HEIGHT)
        first = start >> (level * HEIGHT)
        hashes = [self._hash(level, first + i) for i in range(1 << above)]
        return _root(hashes)

    def leaf(self, index: int) -> bytes:
        """The hash of leaf ``index``."""
        return self._hash(0, index)

    def _hash(self, level: int, index: int) -> bytes:
        tile, place = divmod(index, WIDTH)
        if (level, tile) not in self._tiles:
            width = min(WIDTH, (self.size >> (level * HEIGHT)) - tile * WIDTH)
            path = path_of(level, tile, width)
            data = self._fetch(path)
            if len(data) != width * HASH:
                raise ValueError(f"{path} holds {len(data)} bytes, not {width * HASH}")
            self._tiles[level, tile] = data
        return self._tiles[level, tile][place * HASH : (place + 1) * HASH]


def _root(hashes: list[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def _bundle(entries: list[bytes]) -> bytes:
    """Entries behind their lengths, two bytes each, big end first."""
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)
