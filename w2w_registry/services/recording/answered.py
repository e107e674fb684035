"""Answers to changes that may be sent twice: kept in the home folder, so that they outlive the server.

One file for each caller and key, named by their digest. It is claimed before the change is begun and holds the answer
afterwards; a claim without an answer is left by a server that stopped in between, and nobody can tell whether the
change was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from w2w_registry.artifacts import write_atomic
from w2w_registry.errors import storage_error
from w2w_registry.services.registry import Registry

MOST: Final = 10_000


@dataclass(frozen=True)
class Answered:
    """``asked``: digest of the request; ``at``: seconds since 1970; ``body`` None while there is no answer."""

    asked: str
    at: float
    status: int = 0
    kind: str = ""
    body: str | None = None


class AnswerFolder:
    """What was answered, by caller and key, for ``seconds``."""

    def __init__(self, registry: Registry, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._seconds, self._clock = registry.settings.answers_dir, seconds, clock
        self._claims = 0

    def claim(self, caller: str, key: str, asked: str) -> Answered | None:
        """None when the change is the caller's to make now; else what is kept under the key.

        Raises:
            StorageError: the folder cannot be written.
        """
        path = self._path(caller, key)
        fresh = json.dumps(asdict(Answered(asked, self._clock()))).encode()
        self._claims += 1
        if self._claims % 500 == 1:
            self._sweep()
        for _ in range(2):
            try:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                    stream.write(fresh)
                return None
            except FileExistsError:
                found = self._read(path)
                if found is not None and found.at + self._seconds >= self._clock():
                    return found
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(path, error) from error
        return None

    def keep(self, caller: str, key: str, answered: Answered) -> None:
        """Remember the answer.

        Raises:
            StorageError.
        """
        path = self._path(caller, key)
        try:
            write_atomic(path, json.dumps(asdict(answered)).encode())
        except OSError as error:
            raise storage_error(path, error) from error

    def drop(self, caller: str, key: str) -> None:
        """Forget a claim: the change was not made, and may be tried again."""
        self._path(caller, key).unlink(missing_ok=True)

    def now(self) -> float:
        return self._clock()

    def _path(self, caller: str, key: str) -> Path:
        return self._folder / (hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest() + ".json")

    def _read(self, path: Path) -> Answered | None:
        try:
            return Answered(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _sweep(self) -> None:
        """Let go of what is too old, and of the oldest beyond ``MOST``."""
        try:
            files = sorted((one.stat().st_mtime, one.name) for one in os.scandir(self._folder))
        except OSError:
            return
        old = self._clock() - self._seconds
        for number, (at, name) in enumerate(files):
            if at < old or number < len(files) - MOST:
                (self._folder / name).unlink(missing_ok=True)
