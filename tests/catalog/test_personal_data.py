"""Every column that could say who somebody was is declared, and so is every column that names a file."""

from __future__ import annotations

import pytest

from w2w_registry.catalog.artifact_refs import REFERENCES
from w2w_registry.catalog.base import Base
from w2w_registry.catalog.erasure import ROWS
from w2w_registry.catalog.personal_data import COLUMNS, Fate, declared_columns
from w2w_registry.catalog.rows import table_of

MODELS: list[type[Base]] = sorted((m.class_ for m in Base.registry.mappers), key=lambda model: model.__tablename__)
NO_FILES = {
    "policy.digest",
    "picture.digest",
    "alembic_version", "version.model_digest", "source_file.model_digest", "space_member.model_digest",
    "coordinates.digest", "operation_input.digest", "space.digest", "space.layout_digest", "space.fit_set_digest",
    "direction.digest", "consent_record.training_set_digest",
}  # fmt: skip
"""Digests of what is no file in the artifact store."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__tablename__)
def test_every_text_and_blob_column_is_declared(model: type[Base]) -> None:
    names = [f"{model.__tablename__}.{column.name}" for column in declared_columns(model)]
    missing = [name for name in names if name not in COLUMNS]
    assert not missing, f"say in catalog/personal_data.py what erasure does with {', '.join(missing)}"


def test_what_is_declared_is_there() -> None:
    present = {f"{m.__tablename__}.{c.name}" for m in MODELS for c in declared_columns(m)}
    assert COLUMNS.keys() <= present


def test_whatever_is_not_kept_has_rows_to_look_in() -> None:
    found_elsewhere = {"release", "takedown", "withdrawal"}  # when the takedown is done: forget_releases
    reached = {model.__tablename__ for model in ROWS} | found_elsewhere
    touched = {name.partition(".")[0] for name, rule in COLUMNS.items() if rule.fate is not Fate.KEEP}
    assert touched == reached


def test_a_row_goes_whole_or_stays() -> None:
    for model in MODELS:
        fates = {COLUMNS[f"{model.__tablename__}.{c.name}"].fate for c in declared_columns(model)}
        assert Fate.DELETE not in fates or fates == {Fate.DELETE}, model.__tablename__


def test_a_kept_column_says_why() -> None:
    assert all(rule.why for rule in COLUMNS.values() if rule.fate is Fate.KEEP)


def test_every_digest_of_a_file_is_a_reference() -> None:
    references = {f"{column.class_.__tablename__}.{column.key}" for column in REFERENCES}
    digests = {f"{m.__tablename__}.{c.name}" for m in MODELS for c in table_of(m).columns if c.name.endswith("digest")}
    assert digests - NO_FILES == references
