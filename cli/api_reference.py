"""The Python API's reference, from its docstrings: ``docs/api.md``, written by ``cli.reference``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import w2w_registry
from w2w_registry.interface.consent import Consent
from w2w_registry.interface.registry import Registry
from w2w_registry.interface.results import Pictures, Row, Rows
from w2w_registry.interface.spaces import Spaces

_CLASSES = ((Registry, "reg"), (Consent, "reg.consent"), (Spaces, "reg.spaces"), (Row, "row"), (Rows, "rows"),
            (Pictures, "pictures"))  # fmt: skip


def api_reference() -> str:
    """Markdown with the signature and docstring of everything public."""
    parts = [
        "# The Python API",
        "",
        "Generated from the docstrings by `python -m w2w_registry.cli.reference`; a test keeps it current.",
        "",
        *_entry("w2w_registry.open", w2w_registry.open, level=2),
    ]
    for kind, name in _CLASSES:
        parts += [f"## {kind.__name__}", "", _prose(kind), ""]
        for method, function in _public(kind):
            parts += _entry(f"{name}.{method}", function, level=3)
    return "\n".join(parts).rstrip() + "\n"


def _public(kind: type) -> Iterator[tuple[str, object]]:
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else value
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, value


def _entry(name: str, item: object, *, level: int) -> list[str]:
    if isinstance(item, property):
        return [f"{'#' * level} `{name}`", "", _prose(item), ""]
    assert callable(item)
    signature = _as_written(inspect.signature(item))
    return [f"{'#' * level} `{name}`", "", "```python", f"{name}{signature}", "```", "", _prose(item), ""]


class _Words(str):
    """An annotation as its author wrote it."""

    __repr__ = str.__str__


def _as_written(signature: inspect.Signature) -> str:
    """A signature as its author wrote it, without ``self``."""
    written = [one for name, one in signature.parameters.items() if name != "self"]
    parameters = [one.replace(annotation=_Words(one.annotation)) for one in written]
    returns = _Words(signature.return_annotation)
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    return re.sub(r"w2w_registry\.(?:\w+\.)*", "", text)


def _prose(item: object) -> str:
    """A docstring as Markdown: double backquotes become single ones, indented blocks and lists stay."""
    text = inspect.getdoc(item) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    text = re.sub(r"\n {5,}", " ", text)
    text = re.sub(r"^(Args|Raises|Returns|Attributes):$", r"**\1**\n", text, flags=re.M)
    return re.sub(r"^ {4}", "- ", text, flags=re.M)
