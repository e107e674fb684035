"""An insider who tries to get somebody out who refused: random steps over the services, judged by what is drawn.

Nothing here reads the registry's records to say whether it failed: every model that an export or a space's mean lets
out is drawn by the mini world's base model, its pictures are read by the mini world's readers, and whoever they show is
compared with what the refused people's own LoRAs draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.readers import load_readers, unit
from examples.miniworld.unpack import BASE_MODEL, DATA, Loras
from w2w_registry.consent.records import Scope
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.errors import RegistryError
from w2w_registry.lora import read_lora, write_lora
from w2w_registry.services.consent import grants
from w2w_registry.services.consent.resolve import resolve
from w2w_registry.services.identities import manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording import newcomers
from w2w_registry.services.recording.policies import adopt
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import export_space, fit_space, list_spaces
from w2w_registry.services.synthesis import edit
from w2w_registry.services.synthesis.export import export

Theta = NDArray[np.float32]
EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)
SEEDS, STEPS = (1, 2, 3, 4), 10


@dataclass(frozen=True, eq=False)
class Eyes:
    """Who a LoRA draws: read off pictures of fixed seeds, and compared with what each known person's LoRA draws."""

    loras: Loras
    known: NDArray[np.float32]
    victims: tuple[int, ...]

    @classmethod
    def opened(cls, loras: Loras, people: list[int], victims: list[int]) -> Eyes:
        known = read(loras, [loras.theta[row] for row in people])
        return cls(loras, known, tuple(people.index(v) for v in victims))

    def shows(self, theta: Theta) -> int | None:
        """The victim (place among them) whom it draws: nearer than everybody else, and as near as ``SAME``."""
        scores = read(self.loras, [theta])[0] @ self.known.T
        best = int(scores.argmax())
        return self.victims.index(best) if best in self.victims and scores[best] >= SAME else None


SAME = 0.9
"""Second trainings of 24 people read .93 or more beside the first, with the same seeds; 60 strangers at most .86."""


def read(loras: Loras, thetas: list[Theta]) -> NDArray[np.float32]:
    """Standardised readings (n, attributes) of what LoRAs draw."""
    model, readers = newcomers.opened(str(DATA / "pipeline")).model, load_readers(DATA / "readers.safetensors")
    shots = [Shot(theta, seed) for theta in thetas for seed in SEEDS]
    pictures = np.stack(list(draw(model, loras.layout, shots, Recipe("photo of sks person", steps=STEPS), batch=32)))
    return unit(readers.read(pictures).reshape(len(thetas), len(SEEDS), -1).mean(axis=1))


@dataclass(eq=False)
class Insider:
    """``files``: LoRAs at hand, with what they were made from. ``out``: what got out, whom it draws, by which way."""

    registry: Registry
    eyes: Eyes
    folder: Path
    files: list[tuple[Path, str]]
    rng: np.random.Generator
    out: list[tuple[str, int]] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    seen: dict[bytes, int | None] = field(default_factory=dict)
    whence: dict[str, str] = field(default_factory=dict)
    made: int = 0

    def run(self, steps: int) -> None:
        """So many random steps; what is refused is refused, and the next is tried."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self.add, 6), (self.disguise, 4), (self.mix_files, 2), (self.export, 6), (self.remove, 1),
            (self.mix, 2), (self.sample, 2), (self.fit, 1), (self.space, 1), (self.agree, 1), (self.alias, 1),
            (self.resolve, 1), (self.policy, 1),
        ]  # fmt: skip
        weights = np.array([weight for _, weight in acts], float)
        for _ in range(steps):
            act = acts[int(self.rng.choice(len(acts), p=weights / weights.sum()))][0]
            self.tried[act.__name__] += 1
            try:
                act()
                self.done[act.__name__] += 1
            except RegistryError:
                pass

    # -- with files -----------------------------------------------------------------------------
    def add(self) -> None:
        path, what = self._file()
        kind = self._one(["person", "style", "product", "animal"])
        subjects = [[], ["bob"], ["BOB"], ["s0"], ["S1"]][int(self.rng.integers(5))]
        self.made += 1
        name = self._one([f"x{self.made}", f"acme/x{self.made}", *self._names()[:3]])
        request = AddRequest([str(path)], kind=kind, subjects=subjects, name=name, space=self._one(self._spaces()))
        (item,) = add(self.registry, request).items
        if item.error is not None:
            raise item.error
        self.whence[str(item.identity)] = what

    def disguise(self) -> None:
        """Noise, other factors, another rank, half precision."""
        path, what = self._file()
        lora = read_lora(path)
        how = self._one(["noise", "regauge", "rank", "fp16", "scale"])
        tensors = {key: np.array(value, np.float32) for key, value in lora.tensors.items()}
        alpha = float(lora.alpha or 1.0)
        if how == "noise":
            share = float(self.rng.uniform(0.05, 0.6))
            tensors = {
                key: value + share * value.std() * self.rng.normal(size=value.shape).astype(np.float32)
                for key, value in tensors.items()
            }
        for module in lora.modules if how in ("regauge", "rank", "scale") else ():
            a, b = tensors[module, "A"], tensors[module, "B"]
            if how == "regauge":
                s = np.float32(np.exp(self.rng.normal()) * self.rng.choice([-1, 1]))
                tensors[module, "A"], tensors[module, "B"] = a * s, b / s
            elif how == "scale":
                tensors[module, "B"] = b * np.float32(self.rng.uniform(0.8, 1.2))
            else:
                tensors[module, "A"] = np.concatenate([a, np.zeros_like(a)])
                tensors[module, "B"] = np.concatenate([b, np.zeros_like(b)], axis=1)
        alpha = 2 * alpha if how == "rank" else alpha
        self._write(tensors, alpha, f"{how} of {what}", "fp16" if how == "fp16" else "fp32")

    def mix_files(self) -> None:
        """A mixture made outside, for the registry to take."""
        (first, one), (second, other) = self._file(), self._file()
        layout = self.eyes.loras.layout
        share = float(self.rng.uniform(0.5, 1.0))
        mixed = share * self._theta(first) + (1 - share) * self._theta(second)
        self._write(layout.unflatten(mixed.astype(np.float32)), layout.alpha, f"{share:.2f} of {one}, rest {other}")

    # -- with what is registered ----------------------------------------------------------------
    def export(self) -> None:
        self.made += 1
        out = self.folder / f"out{self.made}"
        name = self._one(self._names())
        export(self.registry, name, str(out), from_coordinates=bool(self.rng.integers(2)))
        self._judge(self._theta(out), f"export of {name}, {self.whence.get(name)}")
        self.files.append((out, f"export of {name}, {self.whence.get(name)}"))

    def space(self) -> None:
        self.made += 1
        ref = self._one(self._spaces())
        export_space(self.registry, ref, str(self.folder / f"space{self.made}"))
        self._judge(open_space(self.registry, ref)[1].mean, f"mean of {ref}")

    def remove(self) -> None:
        manage.remove(self.registry, self._one(self._names()), perform=True)

    def mix(self) -> None:
        self.made += 1
        names = [self._one(self._names()), self._one(self._names())]
        share = float(self.rng.uniform(0.5, 0.999))
        edit.mix(self.registry, names, [share, 1 - share], name=f"mix{self.made}")

    def sample(self) -> None:
        edit.sample(self.registry, 1, space=self._one(self._spaces()), seed=int(self.rng.integers(1 << 30)))

    def fit(self) -> None:
        self.made += 1
        count = int(self.rng.integers(3, 30))
        paths = [str(self._file()[0]) for _ in range(count)]
        fit_space(self.registry, f"s{self.made}", paths, base_model=BASE_MODEL, force=True)

    def agree(self) -> None:
        grants.grant(self.registry, self._one(["bob", "carol"]), EVERYTHING)

    def alias(self) -> None:
        manage.set_alias(self.registry, "live", self._one(self._names()))

    def resolve(self) -> None:
        resolve(self.registry, self._one(self._names()), distinct=True, reason="somebody else")

    def policy(self) -> None:
        """Whatever allows more: without likeness kinds, one person deciding alone, spaces of two."""
        adopt(self.registry, items=[self._one(["likeness_kinds=[]", "space_people=2", 'unknown=["export","publish"]'])])

    # -- help -----------------------------------------------------------------------------------
    def _judge(self, theta: Theta, way: str) -> None:
        key = theta.tobytes()
        if key not in self.seen:
            self.seen[key] = self.eyes.shows(theta)
        shown = self.seen[key]
        if shown is not None:
            self.out.append((way, shown))

    def _theta(self, path: Path) -> Theta:
        lora = read_lora(path)
        layout = self.eyes.loras.layout
        tensors = {}
        for module in layout.modules:
            a, b = lora.tensors[module, "A"], lora.tensors[module, "B"]
            factor = lora.alphas[module] / len(a)
            # rank 1 again: padded ones hold zeros
            tensors[module, "A"], tensors[module, "B"] = a[:1], b[:, :1] * np.float32(factor / layout.alpha)
        return layout.flatten(tensors)

    def _write(self, tensors: object, alpha: float, what: str, dtype: str = "fp32") -> None:
        self.made += 1
        path = self.folder / f"f{self.made}"
        write_lora(path, tensors, alpha, base_model=BASE_MODEL, dtype=dtype)  # type: ignore[arg-type]
        self.files.append((path, what))

    def _file(self) -> tuple[Path, str]:
        return self.files[int(self.rng.integers(len(self.files)))]

    def _names(self) -> list[str]:
        names = [one["identity"] for one in manage.list_identities(self.registry)]
        return [names[i] for i in self.rng.permutation(len(names))] or ["nobody"]

    def _spaces(self) -> list[str]:
        return [str(one["space"]) for one in list_spaces(self.registry)]

    def _one(self, items: list[str]) -> str:
        return items[int(self.rng.integers(len(items)))]
