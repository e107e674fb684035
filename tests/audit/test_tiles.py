"""Tiles give the nodes, roots and proofs that the list of leaves gives, and the stand-alone verifier reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_registry.audit import merkle, verifier
from w2w_registry.audit.tiles import TileReader, files, path_of

LEAVES = [hashlib.sha256(b"%d" % i).digest() for i in range(66_000)]
SIZES = st.one_of(st.integers(1, 600), st.sampled_from([255, 256, 257, 511, 512, 513, 1024, 5000]))


def test_paths_are_those_of_the_specification() -> None:
    assert path_of(0, 1234067) == "tile/0/x001/x234/067"
    assert path_of(0, 0, 1) == "tile/0/000.p/1"
    assert path_of("entries", 1000) == "tile/entries/x001/000"


@given(SIZES, st.data())
@settings(max_examples=25, deadline=None)
def test_tiles_say_what_the_leaves_say(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    stored = dict(files(leaves))
    assert len(stored) == len(list(files(leaves)))
    reader = TileReader(size, stored.__getitem__)
    root = merkle.root(leaves)
    assert reader.node(0, size) == root
    index = data.draw(st.integers(0, size - 1))
    assert reader.leaf(index) == merkle.leaf_hash(leaves[index])
    path = merkle.inclusion_path(index, size, reader.node)
    assert verifier.path_root(leaves[index], index, size, path) == root
    old = data.draw(st.integers(1, size))
    path = merkle.consistency_path(old, size, reader.node)
    assert path == merkle.consistency_proof(leaves, old)
    assert verifier.extends(old, merkle.root(leaves[:old]), size, root, path)
    if old < size:
        assert not verifier.extends(old, merkle.root(LEAVES[1 : old + 1]), size, root, path)


def test_three_levels(tmp_path: Path) -> None:
    """65,792 leaves fill one tile of the second level and begin the third; the verifier reads the folder by itself."""
    size = 65_792 + 3
    stored = dict(files(LEAVES[:size]))
    assert {"tile/0/256", "tile/0/257.p/3", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"} <= set(stored)
    for path, content in stored.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    root = merkle.root(LEAVES[:size])
    published = verifier.Published(str(tmp_path))
    published.size = size
    assert published.node(0, size) == root
    old = merkle.root(LEAVES[:4097])
    assert verifier.extends(4097, old, size, root, published.consistency(4097))


def test_full_tiles_never_change() -> None:
    before, after = dict(files(LEAVES[:700])), dict(files(LEAVES[:1300]))
    full = {path for path in before if ".p/" not in path}
    assert full == {"tile/0/000", "tile/0/001", "tile/entries/000", "tile/entries/001"}
    assert all(after[path] == before[path] for path in full)


def test_a_tile_of_another_length_is_refused() -> None:
    stored = dict(files(LEAVES[:300]))
    stored["tile/0/000"] = stored["tile/0/000"][:-32]
    with pytest.raises(ValueError, match="tile/0/000 holds"):
        TileReader(300, stored.__getitem__).leaf(3)
