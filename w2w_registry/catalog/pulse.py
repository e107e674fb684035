"""How far the catalog has come, asked so cheaply that it can be asked before every answer."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy.exc as sa
from sqlalchemy import Engine

_QUERY: Final = "SELECT seq FROM chain_head"


class Pulse:
    """One connection past the ORM, in no transaction, so that each question is of the state of its instant. One thread
    at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None

    def last_change(self) -> int:
        """The number of the last event; 0 before the first.

        Raises:
            sqlalchemy.exc.DBAPIError: what the driver says; the next question opens a connection anew.
        """
        errors = self._engine.dialect.loaded_dbapi.Error
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
                if self._engine.dialect.name == "postgresql":
                    self._connection.driver_connection.autocommit = True
            cursor = self._connection.cursor()
            try:
                cursor.execute(_QUERY)
                row = cursor.fetchone()
            finally:
                cursor.close()
        except errors as error:
            self.close()
            raise sa.DBAPIError.instance(_QUERY, None, error, errors) from error
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None
