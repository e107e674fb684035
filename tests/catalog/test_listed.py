from __future__ import annotations

import pytest
from sqlalchemy import select

from tests.catalog.build import add_space, add_version
from w2w_registry.catalog import points
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.rows import listed
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState


@pytest.mark.parametrize("numbers", [[], [3], list(range(-5000, 5000)), [2**62, 3, 3]])
def test_numbers_are_given_as_one_parameter(catalog: Catalog, numbers: list[int]) -> None:
    with catalog.read() as session:
        query = listed(session, numbers)
        assert session.scalars(query).all() == numbers
        assert len(query.compile(dialect=session.get_bind().dialect).params) == 1
        assert session.scalars(select(Version.id).where(Version.id.in_(query))).all() == []


def test_ids_spread_over_a_space_are_of_newest_active_versions_below_the_one_given(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other", k=2)
        versions = [add_version(uow, f"p{i}", other if i % 3 == 2 else space) for i in range(60)]
        again = add_version(uow, "p0", space, number=2, identity=versions[0].identity)
        versions[1].state = VersionState.BLOCKED
        uow.event("block")
        here = [v.id for i, v in enumerate(versions) if i % 3 != 2 and i != 1]
    with catalog.read() as session:
        newest = points.newest_ids(session, space.id)
        assert points.spread_ids(session, space.id, 1000) == newest == [*here[1:], again.id]
        few = points.spread_ids(session, space.id, 8)
        assert set(few) < set(newest)
        assert 5 <= len(few) <= 8
        assert points.spread_ids(session, space.id, 1000, before=here[20]) == here[:20]
        assert points.spread_ids(session, 10**6, 8) == []
