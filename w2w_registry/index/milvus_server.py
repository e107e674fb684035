"""A Milvus server, or Milvus Lite in a file: where it is, how to reach it, and what its failures mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from w2w_registry.errors import Busy, MissingExtra, SettingError, StorageError

STAMPS = "w2w_stamps"
STAMP_LENGTH = 1024
LOCAL_FILE = "milvus.db"  # in the cache folder, where no Milvus is named


@dataclass(frozen=True)
class MilvusTarget:
    """Where Milvus is: ``http://host:19530`` or the path of a local file ending in ``.db`` (Milvus Lite makes a folder
    of it); token and database of a server. Nothing secret is shown in a repr."""

    uri: str = field(repr=False)
    token: str = field(default="", repr=False)
    database: str = ""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], default: Path, env: Mapping[str, str] = os.environ) -> Self:
        """From the ``[index]`` table of registry.toml (``url``, or ``uri`` and ``database``) and ``W2W_MILVUS_TOKEN``;
        the local file ``default`` when neither is given.

        Raises:
            SettingError: a value that is not text, or a url of another kind.
        """
        found = {name: options.get(name, "") for name in ("url", "uri", "database")}
        for name, value in found.items():
            if not isinstance(value, str):
                raise SettingError(setting=f"index.{name}", value=value, reason="expected text")
        token = env.get("W2W_MILVUS_TOKEN", "")
        if found["url"]:
            return cls.from_url(found["url"], token)
        return cls(found["uri"] or str(default), token, found["database"])

    @classmethod
    def from_url(cls, url: str, token: str = "") -> Self:
        """From ``milvus+lite:///path/index.db``, ``milvus://host[:port][/database]`` or ``milvus+https://…``.

        Raises:
            SettingError: anything else, or a url that says a password (``W2W_MILVUS_TOKEN`` is where that goes).
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 19530
        except ValueError:
            raise SettingError(setting="index.url", value="…", reason="not a URL") from None
        if parts.username is not None or parts.password is not None:
            raise SettingError(setting="index.url", value="…", reason="give user:password in W2W_MILVUS_TOKEN instead")
        if parts.scheme == "milvus+lite" and not parts.netloc and parts.path.endswith(".db"):
            return cls(parts.path)
        if parts.scheme in ("milvus", "milvus+https") and parts.hostname:
            scheme = "http" if parts.scheme == "milvus" else "https"
            return cls(f"{scheme}://{parts.hostname}:{port}", token, parts.path.strip("/"))
        raise SettingError(
            setting="index.url", value=url, reason="expected milvus+lite:///path/index.db or milvus://host:19530"
        )

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def shown(self) -> str:
        """The uri without user and password."""
        scheme, mark, rest = self.uri.partition("://")
        return self.uri if not mark else scheme + mark + rest.rpartition("@")[2]


def prepare_stamps(client: Any) -> None:
    if client.has_collection(STAMPS):
        client.load_collection(STAMPS)
        return
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", types().VARCHAR, is_primary=True, max_length=255)
    schema.add_field("stamp", types().VARCHAR, max_length=STAMP_LENGTH)
    schema.add_field("vector", types().FLOAT_VECTOR, dim=2)  # Milvus wants one in every collection
    create_collection(client, STAMPS, schema, "FLAT")


def create_collection(client: Any, name: str, schema: Any, index_type: str) -> None:
    """A loaded collection that shows every acknowledged write to the next read."""
    params = client.prepare_index_params()
    params.add_index("vector", index_type=index_type, metric_type="IP")
    client.create_collection(name, schema=schema, index_params=params, consistency_level="Strong")


def types() -> Any:
    from pymilvus import DataType

    return DataType


def connect(target: MilvusTarget) -> Any:
    if target.is_local and not target.uri.endswith(".db"):
        raise SettingError(setting="index.uri", value=target.uri, reason="a local Milvus file is named *.db")
    for module, package in (("pymilvus", "pymilvus"), ("milvus_lite", "milvus-lite")):
        if find_spec(module) is None and (target.is_local or package == "pymilvus"):
            raise MissingExtra(package=package, extra="milvus", feature="the milvus index")
    import pymilvus

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints what it raises
    if target.is_local:
        Path(target.uri).absolute().parent.mkdir(parents=True, exist_ok=True)
    with calls(target), lite_failures() as failures:
        try:
            return pymilvus.MilvusClient(target.uri, token=target.token, db_name=target.database)
        except pymilvus.MilvusException:
            if any(type(failure).__name__ == "DataDirLockedError" for failure in failures):
                raise Busy(what="Milvus Lite file", name=target.uri) from None
            raise


@contextmanager
def lite_failures() -> Iterator[list[BaseException]]:
    """What Milvus Lite fails by while it starts: it logs the reason, with its traceback, and tells the caller none."""
    failures: list[BaseException] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                failures.append(record.exc_info[1])

    logger, handler = logging.getLogger("milvus_lite"), Keep()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield failures
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


@contextmanager
def calls(target: MilvusTarget) -> Iterator[None]:
    """Milvus's own errors as this package's."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise StorageError(path=target.shown, reason=error.message or type(error).__name__) from error
