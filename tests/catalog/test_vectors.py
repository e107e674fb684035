"""Coordinates as arrays, and what an index must be told since it was last looked after."""

from __future__ import annotations

import numpy as np

from tests.catalog.build import add_space, add_version
from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Coordinates, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState


def test_packing_is_exact() -> None:
    values = np.array([0.1, -0.0, np.float32(1e-45), 3e38], dtype=np.float32)
    data, digest = vectors.pack(values)
    assert vectors.unpack(data).tobytes() == values.tobytes()
    assert vectors.pack(values.astype(">f4"))[1] == digest
    assert len(data) == 16


def test_a_space_as_one_matrix_and_in_batches(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other", k=2)
        versions = [add_version(uow, f"p{i}", space, number=i + 1) for i in range(7)]
        add_version(uow, "q", other)
        versions[3].state = VersionState.BLOCKED
        uow.event("block")
        ids = [version.id for version in versions]
    served = [i for n, i in enumerate(ids) if n != 3]
    with catalog.read() as session:
        assert vectors.count(session, space.id) == 6
        whole = vectors.matrix(session, space.id)
        parts = list(vectors.batches(session, space.id, rows=4))
        blocked = vectors.matrix(session, space.id, states=[VersionState.BLOCKED])
        some = vectors.coordinates_of(session, space.id, [ids[3], ids[1], 10**6])
        same = vectors.of_versions(session, space.id, np.array([ids[1], ids[3], 10**6]))
        none = vectors.of_versions(session, other.id, np.array(ids))
        nothing = vectors.matrix(session, 10**6)
    assert whole.ids.tolist() == served
    assert whole.matrix.shape == (6, 4)
    assert whole.matrix.dtype == np.float32
    assert whole.matrix[:, 0].tolist() == [1, 2, 3, 5, 6, 7]
    assert [len(part.ids) for part in parts] == [4, 2]
    assert np.concatenate([part.matrix for part in parts]).tobytes() == whole.matrix.tobytes()
    assert blocked.ids.tolist() == [ids[3]]
    assert {i: row.tolist() for i, row in some.items()} == {ids[1]: [2, 3, 4, 5], ids[3]: [4, 5, 6, 7]}
    assert {i: row.tolist() for i, row in zip(same.ids.tolist(), same.matrix, strict=True)} == {
        i: row.tolist() for i, row in some.items()
    }
    assert len(none.ids) == 0
    assert nothing.ids.shape == (0,)


def test_topping_up_from_any_moment_gives_the_present(catalog: Catalog) -> None:
    """However old a copy is, what changed since brings it to what a fresh copy would hold."""
    copies: dict[int, dict[int, bytes]] = {}

    def copy() -> None:
        with catalog.read() as session:
            whole = vectors.matrix(session, space.id)
            copies[vectors.last_seq(session)] = {
                i: row.tobytes() for i, row in zip(whole.ids.tolist(), whole.matrix, strict=True)
            }

    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other")
        a, b, c = (add_version(uow, name, space) for name in "abc")
    copy()
    with catalog.write("tester") as uow:
        uow.bulk_update(Version, [a.id, b.id], {"state": VersionState.BLOCKED})
        uow.event("block")
    copy()
    with catalog.write("tester") as uow:
        uow.bulk_update(Version, [b.id], {"state": VersionState.ACTIVE})
        uow.bulk_delete(Coordinates, [(space.id, a.id)])
        uow.event("erase")
        d = add_version(uow, "d", space)
    copy()
    with catalog.write("tester") as uow:
        row = uow.session.get_one(Coordinates, (space.id, c.id))
        row.data, row.digest = vectors.pack(np.full(4, 9, np.float32))
        uow.event("recompute")
        add_version(uow, "e", other)
        uow.session.get_one(Version, d.id).state = VersionState.REMOVED
        uow.event("remove")
    copy()
    now = max(copies)
    for since, held in copies.items():
        with catalog.read() as session:
            changes = vectors.changed_since(session, space.id, since)
        topped = {i: row for i, row in held.items() if i not in set(changes.gone.tolist())}
        topped |= {
            i: row.tobytes() for i, row in zip(changes.present.ids.tolist(), changes.present.matrix, strict=True)
        }
        assert topped == copies[now]
        assert changes.seq == now
    assert set(copies[now]) == {b.id, c.id}
    with catalog.read() as session:
        unchanged = vectors.changed_since(session, space.id, now)
    assert len(unchanged.present.ids) == len(unchanged.gone) == 0
