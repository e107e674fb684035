"""Model cards: the YAML the Hub reads and the Markdown people read. Pure text; everything from outside is escaped.

The YAML fields are the Hub's own (https://huggingface.co/docs/hub/model-cards): it has none for consent, so consent is
told in prose, in ``consent.json``, and enforced by the gate's prompt and fields.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from w2w_registry.commands import command
from w2w_registry.hub.addresses import address_of, is_oci
from w2w_registry.hub.bundle import DIFFUSERS_FILE, HUB_TAG, SPACE_TAG

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
GATE_PROMPT = (
    "This model draws the likeness of a person who agreed to it for the uses named in the card and in consent.json. "
    "By asking for access you agree to keep to them, and to delete your copies when you learn that consent has ended."
)
GATE_FIELDS: Mapping[str, str] = {
    "What will you use it for": "text",
    "I will keep to the uses named in the card": "checkbox",
    "I will mark what I generate as made by AI": "checkbox",
    "I will delete my copies when consent ends": "checkbox",
}


@dataclass(frozen=True)
class ConsentFacts:
    """What the card says about consent. ``uses`` None: all the purposes need."""

    state: str
    purposes: tuple[str, ...] = ()
    uses: tuple[str, ...] | None = None
    forbidden: tuple[str, ...] = ()
    derivatives: bool = False
    expires: str | None = None


@dataclass(frozen=True)
class Preview:
    """A picture in the repo and the prompt that made it."""

    path: str
    prompt: str


@dataclass(frozen=True)
class CardFacts:
    """Everything a release's card says. ``space`` None: it is in no weight space. ``weight_file``: the one file that
    holds all of the adapter, if there is one."""

    repo_id: str
    name: str
    number: int
    kind: str
    base_model: str | None
    base_revision: str | None
    space: str | None
    space_digest: str
    components: int
    operation: str
    made_from: tuple[str, ...] = ()
    residual: float | None = None
    license: str = "other"
    instance_prompt: str | None = None
    tags: tuple[str, ...] = ()
    previews: tuple[Preview, ...] = ()
    weights: bool = True
    adapter: str = "LoRA"
    weight_file: str | None = DIFFUSERS_FILE
    likeness: bool = False
    consent: ConsentFacts | None = None


def model_card(facts: CardFacts) -> str:
    """README.md of a release. The same facts give the same text."""
    meta: dict[str, Any] = {"library_name": "diffusers" if facts.weights else "w2w-registry"}
    meta |= _license(facts.license)
    if facts.base_model is not None and _REPO_ID.fullmatch(facts.base_model):
        meta |= {"base_model": facts.base_model, "base_model_relation": "adapter"}
    if facts.instance_prompt:
        meta["instance_prompt"] = facts.instance_prompt
    own = ["lora", "text-to-image", "diffusers", "peft"] if facts.weights and facts.adapter == "LoRA" else []
    meta["tags"] = list(dict.fromkeys([HUB_TAG, *own, f"{HUB_TAG}:{facts.kind}", *facts.tags]))
    if facts.previews:
        meta["widget"] = [{"text": p.prompt or "-", "output": {"url": p.path}} for p in facts.previews]
    if facts.likeness:
        meta |= {"extra_gated_prompt": GATE_PROMPT, "extra_gated_fields": dict(GATE_FIELDS)}
    parts = [front_matter(meta), f"# {plain(facts.name)}\n"]
    if facts.previews:
        parts.append("<Gallery />\n")
    parts += [_summary(facts), _loading(facts), _provenance(facts), _uses(facts)]
    return "\n".join(part for part in parts if part)


def _license(name: str) -> dict[str, str]:
    return {"license": "other", "license_name": "consent-bound"} if name == "other" else {"license": name}


def _summary(facts: CardFacts) -> str:
    one = "A LoRA" if facts.adapter == "LoRA" else f"An adapter ({plain(facts.adapter)})"
    form = one if facts.weights else "Coordinates of a LoRA"
    base = plain(facts.base_model) if facts.base_model else "a base model its file does not name"
    return f"{form} for {base} ({plain(facts.kind)}), version {facts.number}.\n"


def _loading(facts: CardFacts) -> str:
    if not facts.weights:
        return f"## Load\n\n```sh\n{command('pull', facts.repo_id)}\n```\n"
    fetch, repo = _fetching(facts.repo_id)
    if facts.space is None or facts.base_model is None:
        return _loading_a_file(facts)
    revision = f", revision={literal(facts.base_revision)}" if facts.base_revision else ""
    code = (
        "from diffusers import AutoPipelineForText2Image\n\n"
        f"pipe = AutoPipelineForText2Image.from_pretrained({literal(facts.base_model)}{revision})\n"
        f"pipe.load_lora_weights({literal(repo)}, weight_name={literal(DIFFUSERS_FILE)})\n"
    )
    if facts.instance_prompt:
        code += f"pipe({literal(facts.instance_prompt)}).images[0]\n"
    peft = f"from peft import PeftModel\n\npipe.unet = PeftModel.from_pretrained(pipe.unet, {literal(repo)})\n"
    return (
        f"## Load\n\n{fetch}With diffusers:\n\n```python\n{code}```\n\nOr with PEFT:\n\n```python\n{peft}```\n\n"
        f"With the registry, verified: `{command('pull', facts.repo_id)}`\n"
    )


def _fetching(repo_id: str) -> tuple[str, str]:
    """What comes before loading, and the name to load by: the libraries fetch from the Hub themselves, other tools from
    an OCI registry."""
    if not is_oci(repo_id):
        return "", repo_id
    folder = repo_id.rpartition("/")[2]
    return f"```sh\noras pull {repo_id.removeprefix('oci://')}:latest -o {folder}\n```\n\n", f"./{folder}"


def _loading_a_file(facts: CardFacts) -> str:
    """How to load what is in no weight space: for which part of the pipeline its file says itself."""
    pull = f"With the registry: `{command('pull', facts.repo_id)}`\n"
    if facts.adapter != "LoRA" or facts.weight_file is None or facts.base_model is None:
        return f"## Load\n\nThe file is as it was made; tools that read its kind load it. {pull}"
    fetch, repo = _fetching(facts.repo_id)
    code = (
        "from diffusers import AutoPipelineForText2Image\n\n"
        f"pipe = AutoPipelineForText2Image.from_pretrained({literal(facts.base_model)})\n"
        f"pipe.load_lora_weights({literal(repo)}, weight_name={literal(facts.weight_file)})\n"
    )
    return f"## Load\n\n{fetch}With diffusers:\n\n```python\n{code}```\n\n{pull}"


def _provenance(facts: CardFacts) -> str:
    space = ""
    if facts.space is not None:
        space = f"{plain(facts.space)}, {facts.components} components, `{facts.space_digest[:16]}`"
    rows = [
        ("made by", plain(facts.operation)),
        ("made from", ", ".join(plain(m) for m in facts.made_from)),
        ("weight space", space),
        ("outside the space", "" if facts.residual is None else f"{facts.residual:.1%} of the LoRA's norm"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows if value]
    details = ["Details and digests: `w2w.json`.\n"] if facts.space is not None else []
    return "\n".join(["## Provenance\n", "| | |", "| --- | --- |", *lines, "", *details])


def _uses(facts: CardFacts) -> str:
    if not facts.likeness or facts.consent is None:
        return ""
    consent = facts.consent
    rows = [
        ("state", plain(consent.state)),
        ("purposes", ", ".join(plain(p) for p in consent.purposes)),
        ("uses", "all the purposes need" if consent.uses is None else ", ".join(plain(u) for u in consent.uses)),
        ("not allowed", ", ".join(plain(f) for f in consent.forbidden)),
        ("derivatives", "allowed" if consent.derivatives else "not allowed"),
        ("until", plain(consent.expires) if consent.expires else "withdrawn"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows if value]
    text = (
        "Never: deception about the person, sexual content, harassment, identification or surveillance. "
        "Mark what you generate as made by AI. When consent ends this repo is taken down; delete your copies then.\n"
    )
    return "\n".join(["## Consent and uses\n", "| | |", "| --- | --- |", *lines, "", text])


@dataclass(frozen=True)
class SpaceFacts:
    """Everything a weight space's card says. ``spectrum``: explained variance ratio per component."""

    repo_id: str
    name: str
    digest: str
    base_model: str
    base_revision: str | None
    dim: int
    components: int
    rank: int
    alpha: float
    fit_size: int | None
    spectrum: Sequence[float] = field(default=())
    license: str = "other"
    plot: str | None = None


def space_card(facts: SpaceFacts) -> str:
    """README.md of a published weight space, with the spectrum's plot when there is one."""
    meta: dict[str, Any] = {"library_name": "w2w-registry", **_license(facts.license), "tags": [HUB_TAG, SPACE_TAG]}
    if _REPO_ID.fullmatch(facts.base_model):
        meta |= {"base_model": facts.base_model, "base_model_relation": "adapter"}
    rows = [
        ("base model", plain(facts.base_model) + (f" at {plain(facts.base_revision)}" if facts.base_revision else "")),
        ("parameters D", f"{facts.dim:,}"),
        ("components k", f"{facts.components:,}"),
        ("rank, alpha", f"{facts.rank}, {facts.alpha:g}"),
        ("fitted on", "" if facts.fit_size is None else f"{facts.fit_size:,} LoRAs"),
        ("digest", f"`{facts.digest}`"),
    ]
    for count in (1, 10, 100, 1000):
        if count <= len(facts.spectrum):
            rows.append((f"variance in the first {count}", f"{sum(facts.spectrum[:count]):.1%}"))
    parts = [
        front_matter(meta),
        f"# {plain(facts.name)}: a weight space\n",
        "LoRAs fine-tuned one per identity lie near a linear subspace of weight space "
        "([weights2weights](https://arxiv.org/abs/2406.09413)). This is one: a mean, a spread and components.\n",
        "\n".join(["| | |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in rows if v), ""]),
    ]
    if facts.plot:
        parts.append(f"![explained variance per component]({facts.plot})\n")
    parts.append(f"```sh\n{command('space import', _legal(facts.name), address_of(facts.repo_id))}\n```\n")
    return "\n".join(parts)


def _legal(name: str) -> str:
    return re.sub(r"[^\w./+-]", "-", name.partition("@")[0])


def removed_card() -> str:
    """README.md of a repo whose content was taken down."""
    meta = front_matter({"tags": [HUB_TAG]})
    return f"{meta}\n# Removed\n\nThe content of this repository was taken down. Delete copies of it that you hold.\n"


# -- escaping ----------------------------------------------------------------------------------
def front_matter(values: Mapping[str, Any]) -> str:
    """A YAML block between ``---`` lines. Texts are double-quoted on one line, so none can end its line, open a tag or
    become anything but a text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes every text that is not a bare word."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if re.fullmatch(r"[a-z_]+", value) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)

    Dumper.add_representer(str, text)
    Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
    block = yaml.dump(
        dict(values), Dumper=Dumper, allow_unicode=True, sort_keys=False, width=10**9, default_flow_style=False
    )
    return f"---\n{block}---\n"


def read_front_matter(data: bytes) -> Mapping[str, Any]:
    """What a card says between its first two lines of ``---``; empty when it says nothing that can be read."""
    import yaml

    head = re.match(r"---[ \t]*\r?\n(.{0,20000}?)\n---", data.decode("utf-8", "replace"), re.DOTALL)
    try:
        found = None if head is None else yaml.safe_load(head[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar (and a Python literal)."""
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_UNPRINTABLE.sub(_escaped, body)}"'


def _escaped(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"


_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~:@$-])")


def plain(text: str | None) -> str:
    """``text`` as text in Markdown: one line, no markup, no HTML, no links."""
    flat = " ".join(_UNPRINTABLE.sub(" ", text or "").split())
    # A backslash before punctuation is Markdown's own escape; HTML is escaped after it, so entities stay whole.
    return html.escape(_MARKDOWN.sub(r"\\\1", flat), quote=False)


def literal(text: str) -> str:
    """``text`` as a Python literal inside a fenced block that it cannot close."""
    return _quoted(text).replace("`", "\\u0060").replace("<", "\\u003c")
