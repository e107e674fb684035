"""Where things are: home folder, database, registry.toml. Read once, passed on as a frozen value."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2w_registry.errors import BadFile, SettingError, UnknownSetting
from w2w_registry.files import read_text

POLICY_FILE = "registry.toml"
_MOST = 2**20  # bytes of a settings file

TABLES: dict[str, frozenset[str] | None] = {
    "database": frozenset({"url"}),
    "artifacts": frozenset({"url"}),
    "policy": frozenset(
        {
            "purpose",
            "purposes",
            "territory",
            "unknown",
            "likeness_kinds",
            "marking",
            "space_people",
            "door_key",
            "second_person",
            "signed_consents",
        }
    ),
    "hub": frozenset({"endpoint", "signing_key", "keys", "require_signature", "trusted"}),
    "organisation": frozenset({"name", "controller", "contact"}),
    "index": frozenset({"kind", "url", "uri", "database"}),
    "web": None,
    "pipelines": None,
}
"""Tables of registry.toml and the keys each may hold; None = its reader checks them. ``[pipelines]`` says where base
models lie on this machine: a base model's id (quoted, as LoRAs name it) = its folder."""
TEXT, TEXTS, FLAG = "a text", 'a list of texts, as in ["a", "b"]', "true or false"
TABLE, TABLE_LIST = "a table", "a list of tables"
VALUES: dict[str, str | range | tuple[str, ...]] = {
    "database.url": TEXT,
    "artifacts.url": TEXT,
    "hub.endpoint": TEXT,
    "hub.signing_key": TEXT,
    "hub.keys": TEXTS,
    "hub.require_signature": FLAG,
    "hub.trusted": TEXTS,
    "organisation.name": TEXT,
    "organisation.controller": TEXT,
    "organisation.contact": TEXT,
    "index.kind": TEXT,
    "index.url": TEXT,
    "index.uri": TEXT,
    "index.database": TEXT,
    "web.user_header": TEXT,
    "web.proxies": TEXTS,
    "web.roles": TABLE,
    "web.default_role": ("viewer", "maker", "steward", "auditor"),
    "web.oidc": TABLE,
    "web.webhooks": TABLE_LIST,
    "web.hosts": TEXTS,
    "web.read_only": FLAG,
    "web.max_upload_mb": range(1, 2**20 + 1),
}
"""What each key may be that ``config set`` changes: a kind of value, a range of whole numbers, or one of some words.
``[pipelines]`` takes any name and a folder."""
TRUST = ("trusted", "keys", "require_signature")
"""Keys of ``[hub]`` that say whose word is taken: they belong to the policy, and change as it does."""


@dataclass(frozen=True)
class Settings:
    """Everything a service needs to know about its surroundings.

    ``home`` holds the default SQLite file, the artifact store, the index cache and ``registry.toml``.
    ``policy`` is what registry.toml says of it (see :func:`policy_of`), ``actor`` who acts.
    """

    home: Path
    database_url: str
    actor: str
    artifacts_url: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    web: Mapping[str, Any] = field(default_factory=dict)
    organisation: Mapping[str, Any] = field(default_factory=dict)
    pipelines: Mapping[str, str] = field(default_factory=dict)

    @property
    def pipelines_used_file(self) -> Path:
        """Folders that base models were last opened from; ``pipelines`` comes first."""
        return self.home / "pipelines.json"

    @property
    def temporary_dir(self) -> Path:
        """Where files lie that only one process needs, and only for a while."""
        return self.home / "tmp"

    @property
    def index_dir(self) -> Path:
        return self.home / "index"

    @property
    def initializers_dir(self) -> Path:
        """What ``initializer fit`` learned, one file per space and base model; the folder keeps its first name."""
        return self.home / "guesses"

    @property
    def pictures_dir(self) -> Path:
        """Previews as they left: marked."""
        return self.home / "pictures"

    @property
    def answers_dir(self) -> Path:
        """What the gallery answered to changes that may be sent twice, for a day."""
        return self.home / "answers"

    @property
    def galleries_dir(self) -> Path:
        """Fingerprints of large registries as they are compared."""
        return self.home / "galleries"

    @property
    def training_dir(self) -> Path:
        """How far unfinished training got."""
        return self.home / "training"


def load_settings(
    home: str | Path | None = None,
    database: str | None = None,
    *,
    actor: str | None = None,
    env: Mapping[str, str] = os.environ,
) -> Settings:
    """Arguments first, then ``W2W_HOME``, ``W2W_DATABASE_URL``, ``W2W_ACTOR``, then registry.toml, then defaults.

    The actor's default is the account this process runs under.

    Raises:
        SettingError: when registry.toml does not parse, or holds a table or key that means nothing.
    """
    root = Path(home or env.get("W2W_HOME") or Path.home() / ".w2w-registry").expanduser().absolute()
    data = read_settings_file(root / POLICY_FILE)
    said = {table: data.get(table, {}).get("url") for table in ("database", "artifacts")}
    url = database or env.get("W2W_DATABASE_URL") or placed_url(root, said["database"] or "sqlite:///catalog.db")
    artifacts = env.get("W2W_ARTIFACTS") or placed_url(root, said["artifacts"] or "artifacts")
    who = actor or env.get("W2W_ACTOR") or env.get("USER") or env.get("LOGNAME") or _account()
    return Settings(
        home=root,
        database_url=url,
        actor=who,
        artifacts_url=artifacts,
        policy=policy_of(data),
        hub=data.get("hub", {}),
        index=data.get("index", {}),
        web=data.get("web", {}),
        organisation=data.get("organisation", {}),
        pipelines=_pipelines(root, data.get("pipelines", {})),
    )


def placed_url(folder: Path, url: str) -> str:
    """Where a relative path, or a SQLite file of one, is: in ``folder``; any other address as it is."""
    scheme, is_file, path = url.partition("sqlite:///")
    if is_file and not scheme and path not in ("", ":memory:"):
        return f"sqlite:///{folder / Path(path).expanduser()}"
    return url if "://" in url else str(folder / Path(url).expanduser())


def _pipelines(home: Path, table: Mapping[str, Any]) -> dict[str, str]:
    """``[pipelines]``: base model id -> folder, absolute; a relative one is meant from the home folder.

    Raises:
        SettingError: a folder that is not text.
    """
    found: dict[str, str] = {}
    for base_model, folder in table.items():
        if not isinstance(folder, str) or not folder:
            raise SettingError(
                setting=f'"{base_model}" in [pipelines]', value=folder, reason="expected a folder in quotes"
            )
        found[base_model] = str(home / Path(folder).expanduser())
    return found


def policy_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The policy that a registry.toml states: ``[policy]``, and as ``hub`` whom ``[hub]`` trusts."""
    trust = {key: value for key, value in data.get("hub", {}).items() if key in TRUST}
    return {**data.get("policy", {}), **({"hub": trust} if trust else {})}


def _account() -> str:
    """The account this process runs under, for cron and services that set no USER: its name, else its number."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except ImportError:  # not Unix
        return os.environ.get("USERNAME", "unknown")
    except KeyError:  # an account without a name, as containers have
        return f"uid {os.getuid()}"


def read_settings_file(path: Path) -> dict[str, Any]:
    """The tables of a registry.toml; empty when there is no such file.

    Raises:
        SettingError: it does not parse, or holds something other than tables.
    """
    try:
        if not path.exists():
            return {}
        data = tomllib.loads(read_text(path, limit=_MOST))
    except BadFile as error:
        raise SettingError(setting=str(path), value="", reason=error.fields["reason"]) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(setting=str(path), value="", reason=str(error)) from None
    for key, value in data.items():
        if not isinstance(value, dict):
            raise SettingError(setting=f"{path}: {key}", value=value, reason="expected a table, as in [policy]")
        if key not in TABLES:
            raise UnknownSetting(path=str(path), name=f"[{key}]", known=tuple(f"[{name}]" for name in TABLES))
        known = TABLES[key]
        for name in value:
            if known is not None and name not in known:
                raise UnknownSetting(path=str(path), name=f"{name} in [{key}]", known=tuple(sorted(known)))
    return data
