"""Which file of a folder is its adapter."""

from __future__ import annotations

from pathlib import Path

from w2w_registry.errors import BadLora
from w2w_registry.files import why
from w2w_registry.lora.formats import diffusers, peft, read_keys
from w2w_registry.lora.header import Header
from w2w_registry.lora.roles import OWN_WEIGHTS
from w2w_registry.lora.tensorfile import is_pickle_name, read_header


def file_in(folder: Path) -> Path:
    """The tensor file of a folder that holds one adapter.

    Raises:
        BadLora: it holds none, or several.
    """
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise BadLora(path=str(folder), reason=why(error)) from None
    for name in (peft.FILE, diffusers.FILE):
        if name in names:
            return folder / name
    files = [folder / n for n in names if n.lower().endswith((".safetensors", ".sft")) and not n.startswith(".")]
    if len(files) == 1:
        return files[0]
    if files:
        loras = [f for f in files if _looks_like_adapter(read_header(f))]
        if len(loras) == 1:
            return loras[0]
        shown = ", ".join(f.name for f in (loras or files)[:3])
        raise BadLora(path=str(folder), reason=f"the folder holds {len(loras)} LoRA files ({shown}…): name one")
    pickles = [n for n in names if is_pickle_name(Path(n))]
    if pickles:
        raise BadLora(
            path=str(folder),
            reason=f"{pickles[0]} is a pickle file: it could run code when opened, so it is refused unread",
            hint="save it as safetensors",
        )
    raise BadLora(path=str(folder), reason="the folder holds no LoRA (no .safetensors file)")


def _looks_like_adapter(header: Header) -> bool:
    """Whether a safetensors header holds at least one tensor only an adapter has."""
    keys, _, _ = read_keys(header.entries)
    return any(key.role not in (*OWN_WEIGHTS, "alpha") for key in keys.values())
