"""Work in pieces that need nothing of one another: one after another here, or on the machines of a Ray cluster.

The pieces and the order of their answers are the same in both cases: a cluster changes where they are worked on, never
what comes out. Pieces of a machine that dies are worked on again elsewhere (docs/scaling.md).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

from w2w_registry.errors import DeviceError, MissingExtra, RegistryError, UsageError

if TYPE_CHECKING:
    from w2w_registry.diffusion.pipeline import DiffusionModel

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_AGAIN: Final = 5
"""How often a piece is given out again whose machine or process died."""
_WAIT: Final = 10.0  # seconds
_AHEAD: Final = 2
"""Pieces given out for each that can be worked on at once, so that none waits for the next."""


@dataclass(frozen=True)
class BaseModel:
    """How a worker opens the base model that was opened here; ``digest`` of its network's weights."""

    source: str
    revision: str | None
    device: str
    dtype: str
    digest: str

    @classmethod
    def of(cls, model: DiffusionModel) -> BaseModel:
        dtype = str(model.dtype).removeprefix("torch.")
        return cls(model.source, model.revision, model.device.type, dtype, model.unet_digest)

    def open(self) -> DiffusionModel:
        """The model, opened once in a process.

        Raises:
            UsageError: what is there is another model. NotFound, DeviceError.
        """
        model = _opened(self)
        if model.unet_digest != self.digest:
            raise UsageError(
                reason=f"{self.source} is another model on a worker than here",
                hint="every machine needs the same files",
            )
        return model


@lru_cache(maxsize=1)
def _opened(base: BaseModel) -> DiffusionModel:
    from w2w_registry.diffusion.pipeline import load_model

    return load_model(base.source, revision=base.revision, device=base.device, dtype=base.dtype)  # type: ignore[arg-type]


def mapped(
    work: Callable[[Job], Answer], jobs: Iterable[Job], ray: str | None = None, *, card: bool = False
) -> Iterator[Answer]:
    """What ``work`` says of each job, in their order; jobs are taken as they are needed.

    Args:
        work: says the same wherever it is asked; for Ray it and the jobs can be pickled.
        ray: the cluster's address (``auto``, ``ray://host:10001``, ``host:6379``); None works here.
        card: each piece needs a graphics card to itself.

    Raises:
        MissingExtra: Ray is not installed. UsageError: no cluster there. DeviceError: workers keep dying. And what
            ``work`` raises.
    """
    if ray is None:
        yield from map(work, jobs)
        return
    if find_spec("ray") is None:
        raise MissingExtra(package="ray", extra="ray", feature="working on a Ray cluster")
    _listens(ray)
    yield from _on_cluster(work, jobs, ray, card)


def _listens(address: str) -> None:
    """Raises UsageError where nobody does: Ray itself waits for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_WAIT).close()
        except (OSError, OverflowError):
            reason = f"no Ray cluster at {address}: nothing answers there"
            raise UsageError(reason=reason, hint="start one with `ray start --head`") from None


def _on_cluster(work: Callable[[Job], Answer], jobs: Iterable[Job], address: str, card: bool) -> Iterator[Answer]:
    import ray

    resources: Any = ray.cluster_resources
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = (str(error).splitlines() or ["it does not answer"])[0]
            reason = f"no Ray cluster at {address}: {why.rstrip('.')}"
            raise UsageError(reason=reason, hint="start one with `ray start --head`") from None
    try:
        task: Any = ray.remote(max_retries=_AGAIN, num_cpus=1, num_gpus=int(card))(_answered)
        held = ray.put(work)
        kind = "GPU" if card else "CPU"
        most = _AHEAD * max(1, int(resources().get(kind, 1)))
        waiting: deque[Any] = deque()
        for job in jobs:
            waiting.append(task.remote(held, job))
            if len(waiting) >= most:
                yield _got(waiting.popleft(), address)
        while waiting:
            yield _got(waiting.popleft(), address)
    finally:
        if own:
            ray.shutdown()


def _answered(work: Callable[[Job], Answer], job: Job) -> Answer | RegistryError:
    try:
        return work(job)
    except RegistryError as error:  # given back as it is: Ray would wrap it
        return error


def _got(reference: Any, address: str) -> Any:
    import ray

    try:
        answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise DeviceError(
            device=f"Ray at {address}", reason=str(error).splitlines()[0], hint="run it again; what is done is kept"
        ) from None
    if isinstance(answer, RegistryError):
        raise answer
    return answer
