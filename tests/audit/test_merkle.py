"""RFC 9162 trees against an independent implementation (pymerkle) and against every way to be wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from w2w_registry.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
)
from w2w_registry.audit.verifier import extends, path_root

LEAVES = [hashlib.sha256(bytes([i])).digest() for i in range(70)]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    return 0 <= index < size and path_root(leaf, index, size, proof) == expected


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    return extends(old, old_root, new, new_root, proof)


def oracle(leaves: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


def test_small_trees_by_hand() -> None:
    a, b, c = (leaf_hash(x) for x in LEAVES[:3])
    assert root([]) == EMPTY_ROOT
    assert root(LEAVES[:1]) == a
    assert root(LEAVES[:3]) == node_hash(node_hash(a, b), c)


@pytest.mark.parametrize("size", range(1, 35))
def test_roots_and_proofs_agree_with_the_oracle(size: int) -> None:
    leaves = LEAVES[:size]
    tree = oracle(leaves)
    assert root(leaves) == tree.get_state(size)
    for index in range(size):
        proof = inclusion_proof(leaves, index)
        assert [p.hex() for p in proof] == tree.prove_inclusion(index + 1, size).serialize()["path"][1:]
        assert verify_inclusion(leaves[index], index, size, proof, root(leaves))
    for old in range(1, size + 1):
        proof = consistency_proof(leaves, old)
        assert verify_consistency(old, size, root(leaves[:old]), root(leaves), proof)


@given(st.integers(1, 70), st.data())
def test_a_proof_holds_for_its_own_leaf_only(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, 69).filter(lambda i: i != index))
    proof = inclusion_proof(leaves, index)
    assert verify_inclusion(leaves[index], index, size, proof, root(leaves))
    assert not verify_inclusion(LEAVES[other], index, size, proof, root(leaves))
    assert not verify_inclusion(leaves[index], other, size, proof, root(leaves))
    assert not verify_inclusion(leaves[index], index, size, (*proof, LEAVES[0]), root(leaves))
    if proof:
        assert not verify_inclusion(leaves[index], index, size, proof[:-1], root(leaves))


@given(st.integers(1, 70), st.data())
def test_rewritten_history_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old - 1))
    leaves = LEAVES[:size]
    before = root(leaves[:old])
    rewritten = [*leaves[:changed], b"x" * 32, *leaves[changed + 1 :]]
    proof = consistency_proof(rewritten, old)
    assert not verify_consistency(old, size, before, root(rewritten), proof)
    assert verify_consistency(old, size, before, root(leaves), consistency_proof(leaves, old))


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES[:3], 3)
    with pytest.raises(IndexError):
        consistency_proof(LEAVES[:3], 0)
    assert not verify_inclusion(LEAVES[0], 3, 3, (), root(LEAVES[:3]))
    assert not verify_consistency(4, 3, EMPTY_ROOT, EMPTY_ROOT, ())
    assert not verify_consistency(2, 3, root(LEAVES[:2]), root(LEAVES[:3]), ())


@given(st.integers(0, 70))
def test_the_frontier_knows_the_root_at_every_size(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    assert (frontier.size, frontier.root()) == (size, root(LEAVES[:size]))
