"""Thousands of numbers in one statement, as one parameter: what ``IN`` with a parameter each takes hundreds of
statements for."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import ARRAY, BigInteger, Select, bindparam, column, func, select
from sqlalchemy.orm import Session


def listed(session: Session, numbers: Iterable[int]) -> Select[tuple[int]]:
    """The integers as a query of one column, ``n``: for ``column.in_(…)``, or as a subquery to go through."""
    values = list(numbers)
    if session.get_bind().dialect.name == "postgresql":
        array = bindparam(None, values, ARRAY(BigInteger), unique=True)
        return select(func.unnest(array, type_=BigInteger).column_valued("n").label("n"))
    each = func.json_each(json.dumps(values)).table_valued(column("value", BigInteger))
    return select(each.c.value.label("n"))
