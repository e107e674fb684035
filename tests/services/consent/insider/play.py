"""The insider: what they have at hand, what they have tried, and what got out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from tests.services.consent.insider.allowed import Allowed, allowed_by
from tests.services.consent.insider.eyes import Eyes
from w2w_registry.catalog.models import Identity
from w2w_registry.catalog.usage import head
from w2w_registry.diffusion.adapters import Adapter, read_adapter
from w2w_registry.errors import RegistryError
from w2w_registry.hub.client import HubClient
from w2w_registry.lora import read_lora
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.showing import list_spaces
from w2w_registry.space.gauge import to_gauge
from w2w_registry.space.layout import Layout

Theta = NDArray[np.float32]
TOGETHER: Final = 32
RETRAINED, FOREIGN = "second training of", "foreign LoRA of"


@dataclass(frozen=True)
class Move:
    """One thing to try, and the commands it stands for."""

    name: str
    commands: tuple[str, ...]
    weight: float
    act: Callable[[Insider], None]


MOVES: Final[list[Move]] = []


def move(*commands: str, weight: float = 1.0) -> Callable[[Callable[[Insider], None]], Callable[[Insider], None]]:
    """Put a function into the repertoire, as what these commands do."""

    def put(act: Callable[[Insider], None]) -> Callable[[Insider], None]:
        MOVES.append(Move(act.__name__, commands, weight, act))
        return act

    return put


@dataclass(frozen=True)
class Escape:
    """Somebody who refused, drawn by what left: at which step, whom, by which way, and what that was made of.

    ``seq``: the log's last event then. ``allowed``: the event before it by which one person, whom the policy lets
    decide alone, let them out; None: nothing did."""

    step: int
    row: int
    way: str
    what: str
    seq: int = 0
    allowed: Allowed | None = None

    @property
    def kind(self) -> str:
        """A copy of a refused person's model (or a mixture), their second training, or a foreign LoRA of them."""
        for kind in (FOREIGN, RETRAINED):
            if kind in self.what:
                return kind
        return "copy"


@dataclass(eq=False)
class Insider:
    """``files``: LoRAs at hand, with what they were made from. ``refusing``: rows of those who refuse by now.
    ``whence``: what registered names may show; ``repos``: what the Hub's may, and ``heads`` how much of
    them has been looked at. ``planted``: the θ (D,) that the next training or inversion finds, and what it is."""

    registry: Registry
    hub: LocalHub
    owner: User
    client: HubClient
    eyes: Eyes
    folder: Path
    files: list[tuple[Path, str]]
    refusing: set[int]
    subjects: Sequence[str]
    rng: np.random.Generator
    out: list[Escape] = field(default_factory=list)
    waiting: list[tuple[Adapter, Escape, frozenset[int]]] = field(default_factory=list)
    judged: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    cost: Counter[str] = field(default_factory=Counter)
    whence: dict[str, str] = field(default_factory=dict)
    repos: dict[str, str] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    planted: tuple[Theta, str] | None = None
    blind: int = 0
    clock: timedelta = timedelta(0)
    made: int = 0
    step: int = 0

    def run(self, steps: int) -> None:
        """So many random steps; what is refused is refused, and the next is tried."""
        weights = np.array([move.weight for move in MOVES])
        for _ in range(steps):
            self.step += 1
            self.blind = max(0, self.blind - 1)
            self.play(MOVES[int(self.rng.choice(len(MOVES), p=weights / weights.sum()))])
        self.look()

    def play(self, what: Move) -> None:
        began = time.process_time()
        self.tried[what.name] += 1
        try:
            what.act(self)
            self.done[what.name] += 1
        except RegistryError:
            pass
        finally:
            self.cost[what.name] += time.process_time() - began  # type: ignore[assignment]

    # -- judging --------------------------------------------------------------------------------
    def judge(self, path: Path, way: str, what: str) -> None:
        """Look at the models that were written below a folder."""
        for file in sorted(
            {one.parent if one.name.startswith("adapter") else one for one in path.rglob("*.safetensors")}
        ):
            self._wait(read_adapter(file), way, what)

    def judge_theta(self, layout: Layout, theta: Theta, way: str, what: str) -> None:
        self._wait(Adapter(layout, np.asarray(theta, np.float32)), way, what)

    def judge_pictures(self, pixels: NDArray[np.uint8], seeds: Sequence[int], way: str, what: str) -> None:
        self._note(self.eyes.shows_pictures(pixels, seeds, self.refusing), way, what)

    def look(self) -> None:
        """Judge what waits to be drawn."""
        seen = self.eyes.shows([adapter for adapter, *_ in self.waiting], [who for *_, who in self.waiting])
        for row, (_, escape, _) in zip(seen, self.waiting, strict=True):
            if row is not None:
                self._out(replace(escape, row=row))
        self.waiting.clear()

    def _wait(self, adapter: Adapter, way: str, what: str) -> None:
        """Models are drawn many at a time, and held against those who refused when they left."""
        self.judged += 1
        self.waiting.append((adapter, Escape(self.step, -1, way, what, self._seq()), frozenset(self.refusing)))
        if len(self.waiting) >= TOGETHER:
            self.look()

    def _note(self, row: int | None, way: str, what: str) -> None:
        self.judged += 1
        if row is not None:
            self._out(Escape(self.step, row, way, what, self._seq()))

    def _out(self, one: Escape) -> None:
        allowed = allowed_by(self.registry, self.eyes, one.row, f"s{one.row}", one.seq)
        self.out.append(replace(one, allowed=allowed))

    def _seq(self) -> int:
        with self.registry.catalog.read() as session:
            return head(session)[0]

    # -- help -----------------------------------------------------------------------------------
    def fresh(self, stem: str) -> str:
        self.made += 1
        return f"{stem}{self.made}"

    def one(self, items: Sequence[str]) -> str:
        return items[int(self.rng.integers(len(items)))]

    def file(self) -> tuple[Path, str]:
        return self.files[int(self.rng.integers(len(self.files)))]

    def name(self) -> str:
        """A registered name: mostly one of those the insider has had a hand in."""
        mine = list(self.whence)
        if mine and self.rng.random() < 0.6:
            return self.one(mine)
        return self.one(self.names())

    def names(self) -> list[str]:
        with self.registry.catalog.read() as session:
            return [*session.scalars(select(Identity.name).order_by(Identity.id))] or ["nobody"]

    def spaces(self) -> list[str]:
        return [str(one["space"]) for one in list_spaces(self.registry)]

    def kind(self) -> str:
        return self.one(["person", "person", "style", "product", "animal", "other"])

    def came_in(self, name: str | None, what: str) -> None:
        """What a registered name may show from now on."""
        if name is not None:
            name = name.partition("@")[0]
            self.whence[name] = f"{self.whence[name]} | {what}" if name in self.whence else what

    def what(self, name: str) -> str:
        return self.whence.get(name.partition("@")[0], name)

    def form(self) -> Path:
        """What is given for evidence: mostly the same file again."""
        path = self.folder / f"form{int(self.rng.integers(3)) * int(self.rng.integers(4))}.pdf"
        path.write_text(f"signed {path.name}")
        return path

    def point(self, path: Path, space: str) -> Theta:
        """Coordinates (k,) of a file in a space. Raises BadLora, SpaceMismatch."""
        _, basis = open_space(self.registry, space)
        lora = read_lora(path)
        gauged = to_gauge(lora.tensors, lora.alphas, basis.layout, basis.mean, basis.std, basis.start)
        return np.asarray(basis.project(gauged.theta), np.float32)
