"""A diffusers pipeline as the registry uses it: text and photos in, latents and pictures out.

What differs between kinds of base model is its family's (``families``). Nothing is trained or merged: LoRAs are applied
from outside (``bank.LoraBank``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.families import FAMILIES, Conditioning, Family, family_of, known
from w2w_registry.errors import DeviceError, MissingExtra, NotFound, SpaceMismatch, UsageError
from w2w_registry.space.layout import Layout

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class DiffusionModel:
    """An opened pipeline on a device. ``source`` and ``revision`` say which one, for provenance; ``memo`` keeps what
    was worked out about it once."""

    pipe: Any
    source: str
    revision: str | None
    device: torch.device
    dtype: torch.dtype
    memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def family(self) -> Family:
        """What kind of base model it is."""
        return family_of(self.pipe)

    @property
    def unet(self) -> nn.Module:
        """The part that LoRAs change, called as a UNet is, whether it is one or not."""
        return self.family.denoiser

    @property
    def scheduler(self) -> Any:
        """How noise is added in training."""
        return self.family.noise

    @property
    def image_size(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        return self.family.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.family.latent_shape

    def bank(self, layout: Layout) -> LoraBank:
        """The LoRA modules of ``layout`` in this UNet.

        Raises:
            SpaceMismatch: the space was made for another kind of UNet.
        """
        try:
            return LoraBank(self.unet, layout)
        except ValueError as error:
            raise SpaceMismatch(
                path=self.source,
                space="",
                differences=(str(error),),
                hint="the base model is not of the kind this space was fitted on",
            ) from None

    @torch.no_grad()
    def encode_text(self, prompt: str) -> Conditioning:
        """One prompt as the denoiser reads it, without guidance."""
        return self.family.encode_text(prompt, self.device)

    @torch.no_grad()
    def encode_images(self, pixels: NDArray[np.uint8], batch: int = 16) -> Tensor:
        """(N, H, W, 3) uint8 → latents (N, C, h, w) float32, as the UNet wants them: the posterior's mode, scaled."""
        vae = self.pipe.vae
        home = next(vae.parameters()).dtype
        # Half precision overflows in some VAEs (SDXL's says so itself); encoding happens once, so it can be exact.
        if home != torch.float32:
            vae.to(torch.float32)
        try:
            parts = []
            for start in range(0, len(pixels), batch):
                x = torch.from_numpy(pixels[start : start + batch].copy()).to(self.device, torch.float32)
                x = x.permute(0, 3, 1, 2) / 127.5 - 1.0
                parts.append(vae.encode(x).latent_dist.mode())
        finally:
            if home != torch.float32:
                vae.to(home)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (torch.cat(parts) - shift) * float(vae.config.scaling_factor)

    @contextmanager
    def conditioned(self, conditioning: Conditioning) -> Iterator[None]:
        """Inside the block, UNet calls that pass only text get the rest of the conditioning (SDXL) as well."""
        if not conditioning.added:
            yield
            return
        added = dict(conditioning.added)

        def add(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            rows = args[0].shape[0]
            kwargs.setdefault(
                "added_cond_kwargs", {k: v.to(args[0].dtype).expand(rows, *v.shape) for k, v in added.items()}
            )
            return args, kwargs

        handle = self.unet.register_forward_pre_hook(add, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def autocast(self, bf16: bool) -> AbstractContextManager[Any]:
        """bfloat16 for float32 weights where asked; half-precision weights need none."""
        if bf16 and self.dtype == torch.float32:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @cached_property
    def unet_digest(self) -> str:
        """SHA-256 over the UNet's tensors, by name: which model it is, whatever file it came from."""
        return _weights_digest(self.unet)

    @cached_property
    def parts(self) -> dict[str, str]:
        """The same digest of every part that is a network: ``unet``, ``vae``, ``text_encoder``…"""
        networks = {name: part for name, part in self.pipe.components.items() if isinstance(part, nn.Module)}
        return {
            name: self.unet_digest if part is self.family.network else _weights_digest(part)
            for name, part in sorted(networks.items())
        }

    def versions(self) -> dict[str, str]:
        """What made the result, for the operation record."""
        revision = {"model_revision": self.revision} if self.revision else {}
        return {"model": self.source, **revision, **surroundings(self.device, self.dtype)}


def surroundings(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What the same arithmetic rounds by: libraries, device, precision, kind of processor, and threads on a CPU."""
    import diffusers

    found = {"torch": torch.__version__, "diffusers": str(diffusers.__version__)}
    found |= {"device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    if device.type == "cpu":
        return found | {"hardware": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    return found | {"hardware": torch.cuda.get_device_name(device)}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block the CPU computes with ``count`` threads (0: as many as it does): sums over more of them are
    rounded in another order."""
    before = torch.get_num_threads()
    try:
        if count > 0:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def _weights_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()


def pick_device(device: Device = "auto") -> torch.device:
    """Raises DeviceError when a GPU is asked for and there is none."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        raise UsageError(reason=f"unknown device {device!r}", hint="one of: auto, cpu, cuda")
    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU"
        raise DeviceError(device="cuda", reason=built, hint="use [[device]] cpu, or install a CUDA build of torch")
    return torch.device("cuda")


def pick_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """float32 on the CPU; on a GPU bfloat16 where the card has it, else float16."""
    if precision != "auto":
        if precision not in DTYPES:
            raise UsageError(reason=f"unknown dtype {precision!r}", hint="one of: auto, " + ", ".join(DTYPES))
        return DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is a gain here: on GPUs, and on CPUs with instructions for it."""
    if device.type != "cpu":
        return True
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    local: bool = False,
) -> DiffusionModel:
    """Open a pipeline folder, or a Hub id (from the local cache when it is there; ``local``: only from there).

    Raises:
        NotFound: no such folder, and no such model on the Hub either.
        MissingExtra, DeviceError: diffusers, a GPU or memory is missing.
        UsageError: a pipeline of no family that is known here.
    """
    where = pick_device(device)
    kind = pick_dtype(where, dtype)
    name = str(source)
    folder = Path(name)
    path = folder.exists() or folder.is_absolute() or name.startswith((".", "~"))  # no Hub id begins so
    if path and not (folder / "model_index.json").is_file():
        raise NotFound(what="diffusers pipeline (a folder with model_index.json)", name=name)
    try:
        with quiet(), memory_guard(where, "use [[dtype]] bfloat16, or a smaller base model"):
            from diffusers import DiffusionPipeline

            index = DiffusionPipeline.load_config(name, revision=revision, local_files_only=local)
            if not known(index):
                others = ", ".join(FAMILIES)
                raise UsageError(
                    reason=f"{name} is a {index.get('_class_name')}: it has no UNet", hint=f"or be one of: {others}"
                )
            more: dict[str, Any] = {"safety_checker": None} if "safety_checker" in index else {}
            more["local_files_only"] = local
            if "requires_safety_checker" in index:
                more["requires_safety_checker"] = False
            if index.get("_class_name") == "StableDiffusion3Pipeline":  # its largest text encoder may be left out
                more |= {part: None for part in ("text_encoder_3", "tokenizer_3") if not any(index.get(part) or ())}
            pipe = DiffusionPipeline.from_pretrained(name, revision=revision, torch_dtype=kind, **more).to(where)
    except ImportError as error:
        missing = error.name or "diffusers"
        raise MissingExtra(package=missing, extra="diffusion", feature="running a base model") from None
    except (OSError, ValueError) as error:
        # Transformers and diffusers answer every missing, damaged or unreachable model with one of these, at length.
        raise NotFound(what="base model", name=name, reason=str(error).splitlines()[0]) from None
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    model = DiffusionModel(pipe, name, revision or _snapshot(pipe), where, kind)
    model.family.settle(where)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries' remarks and progress bars about loading are not the user's business."""
    import logging as standard
    import warnings

    names = ("transformers", "diffusers")
    before = {name: standard.getLogger(name).level for name in names}
    for name in names:
        standard.getLogger(name).setLevel(standard.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from diffusers.utils import logging as diffusers_logging
            from transformers.utils import logging as transformers_logging

            for library in (diffusers_logging, transformers_logging):
                library.set_verbosity_error()
                library.disable_progress_bar()
            yield
            for library in (diffusers_logging, transformers_logging):
                library.enable_progress_bar()
    finally:
        for name, level in before.items():
            standard.getLogger(name).setLevel(level)


def _snapshot(pipe: Any) -> str | None:
    """The commit a Hub pipeline was loaded at, read off its place in the cache."""
    parts = Path(str(getattr(family_of(pipe).network.config, "_name_or_path", ""))).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


@contextmanager
def memory_guard(device: torch.device, hint: str) -> Iterator[None]:
    """Running out of memory inside the block is one DeviceError that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceError(device=device.type, reason=str(error).split(". ")[0], hint=hint) from None
    except MemoryError:
        raise DeviceError(device=device.type, reason="out of memory", hint=hint) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise DeviceError(device=device.type, reason="out of memory", hint=hint) from None
