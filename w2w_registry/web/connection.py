"""One connection to the gallery, which nobody keeps open by dawdling.

The guard gives a body that comes slowly a deadline. Before and after it stands nobody but the server, and uvicorn's
waits for ever: for the rest of a request's head, for a body whose request was answered long ago, for a client that does
not read what it asked for. 512 such connections would shut everybody else out.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOKS: Final = 4
"""How often in its patience a connection is looked at."""


class Connection(H11Protocol):
    """HTTP/1.1; ``patience`` seconds the client may keep the server waiting, and no longer."""

    patience = 20.0
    _timer: asyncio.TimerHandle | None = None
    _held = 0
    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._held = 0  # it reads, if slowly
        super().resume_writing()

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self.patience / LOOKS, self._look)

    def _look(self) -> None:
        same, self._seen = self.cycle is self._seen, self.cycle
        self._held = self._held + 1 if same and self._waits_for_the_client() else 0
        if self._held < LOOKS:
            self._look_again()
        elif not self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()

    def _waits_for_the_client(self) -> bool:
        """For the rest of a head, the rest of a body that nobody reads any more, or for it to read the answer. A body
        that is being read has the guard's deadline, and silence between two requests uvicorn's."""
        if self.flow.write_paused:
            return True
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        return self.timeout_keep_alive_task is None or self.conn.their_state is h11.SEND_BODY
