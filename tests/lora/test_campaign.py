"""Ten thousand generated adapters of every format, dtype and pattern: ΔW as LyCORIS, PEFT and diffusers have it.

A long campaign (``make soak``); a few hundred of the same run with every test run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lora.test_adapters import LAYERS, Net, deltas, only, relative
from w2w_registry.lora import read_adapter

torch = pytest.importorskip("torch")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Case = Callable[[random.Random, Path], Iterator[float]]


def save(path: Path, state: dict[str, Any], dtype: Any) -> Path:
    from safetensors.torch import save_file

    save_file({k: v.detach().to(dtype if v.ndim else torch.float32).contiguous() for k, v in state.items()}, path)
    return path


def rounded(module: Any, dtype: Any, seed: int) -> None:
    """Trained-looking parameters, each one that ``dtype`` holds."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype).to(torch.float32)


def lycoris(draw: random.Random, folder: Path) -> Iterator[float]:
    from lycoris.modules.dylora import DyLoraModule
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    make = draw.choice([LoConModule, LohaModule, LokrModule, DyLoraModule])
    name, base = LAYERS[draw.choice(sorted(LAYERS))]
    options: dict[str, Any] = {"factor": draw.choice([-1, 2, 4])} if make is LokrModule else {}
    rank, alpha = draw.randint(1, 6), draw.choice([1.0, 4.0, 0.5, 27.0])
    if make is DyLoraModule:
        options = {"block_size": draw.choice([1, rank])}
    module = make(
        name, base(), 1.0, rank, alpha, use_tucker=draw.random() < 0.5, rs_lora=draw.random() < 0.3, **options
    )
    dtype = draw.choice(DTYPES)
    rounded(module, dtype, draw.randrange(2**31))
    state = module.custom_state_dict() if hasattr(module, "custom_state_dict") else {}
    state = state or {k: v for k, v in module.state_dict().items() if "org_module" not in k}
    state = {f"{name}.{k}": v for k, v in state.items()}
    if make is DyLoraModule:  # whose module takes another rank each time; what it saved is LyCORIS' plain LoRA
        up, down = (state[f"{name}.lora_{end}.weight"] for end in ("up", "down"))
        up = up.reshape(*up.shape[:2], *(1,) * (down.ndim - 2))
        module = LoConModule.make_module_from_state_dict(name, base(), up, down, None, state[f"{name}.alpha"], None)
    added = module.get_weight(module.shape) if hasattr(module, "get_weight") else module.get_diff_weight(1.0)[0]
    whole = {f"{name}.lokr_w1", f"{name}.lokr_w2"} <= set(state)
    change = only(read_adapter(save(folder / "x.safetensors", state, dtype)))
    yield relative(change.delta(), (added.detach() / (module.scale if whole else 1.0)).double())


RANKS: list[dict[str, int]] = [
    *({}, {"to_q": 3}, {r"down_blocks\.0\.(to_q|nothing)": 2}, {"conv_in": 2, "to_v": 1}),
    *({"to.q": 4}, {r"^to_q": 2, "to_q$": 3}, {"down_blocks.0.to_v": 2}, {"to_q|conv.in": 1}),
]
ALPHAS: list[dict[str, float]] = [
    *({}, {"to_q": 5}, {r".*to_[qk]": 3, "to_q": 8}, {"^conv_in": 2}),
    *({"to.v": 7}, {r"(^to_q|^conv_in$)": 9}, {"down_blocks_0.to_q": 3}, {r"\w+.0.to_[a-q]": 6, "to_v$": 2}),
]


def peft(draw: random.Random, folder: Path) -> Iterator[float]:
    import peft as library

    make = draw.choice(["LoraConfig", "LoraConfig", "LoHaConfig", "LoKrConfig"])
    options: dict[str, Any] = {"r": draw.randint(1, 5), "rank_pattern": draw.choice(RANKS)}
    options["alpha_pattern"] = draw.choice(ALPHAS)
    alpha = draw.choice([1, 16, 27])
    if make == "LoraConfig":
        options |= {"lora_alpha": alpha, "use_rslora": draw.random() < 0.4}
    else:
        options |= {"alpha": alpha, "use_effective_conv2d": draw.random() < 0.5}
    config = getattr(library, make)(target_modules=["to_q", "to_v", "conv_in"], **options)
    model = library.get_peft_model(Net(), config)
    dtype = draw.choice(DTYPES)
    rounded(model, dtype, draw.randrange(2**31))
    config.save_pretrained(folder)
    state = library.get_peft_model_state_dict(model)
    strip = draw.random() < 0.3  # a low-level dump
    state = {k.removeprefix("base_model.model.") if strip else k: v for k, v in state.items()}
    adapter = read_adapter(save(folder / "adapter_model.safetensors", state, dtype).parent)
    wanted = deltas(model)
    assert {c.module for c in adapter.changes} == set(wanted)
    for change in adapter.changes:
        yield relative(change.delta(), wanted[change.module].double())


UNET = "down_blocks_0_attentions_0_transformer_blocks_0_{}"
INNER = ("attn1_to_q", "attn1_to_out_0", "attn2_to_k", "attn2_to_v", "ff_net_0_proj", "ff_net_2")
FLUX = ("img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj", "img_mlp_0", "txt_mlp_2", "img_mod_lin")


def diffusers(draw: random.Random, folder: Path) -> Iterator[float]:
    """kohya's files of a UNet with its text encoder, of Flux, and XLabs' files, as diffusers converts them."""
    from diffusers.loaders import lora_conversion_utils as convert

    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    rank, width, dtype = draw.randint(1, 5), 12, draw.choice(DTYPES[:3])

    def pair(stem: str, rows: int, down: str = "lora_down", up: str = "lora_up") -> dict[str, Any]:
        a, b = torch.randn(rank, width, generator=generator), torch.randn(rows, rank, generator=generator)
        # Their conversion multiplies in the dtype it is given, and would round.
        return {f"{stem}.{down}.weight": a.to(dtype).float(), f"{stem}.{up}.weight": b.to(dtype).float()}

    state: dict[str, Any] = {}
    which = draw.choice(["unet", "flux", "xlabs"])
    alpha = draw.choice([1.0, 3.0, 16.0])
    if which == "xlabs":
        for n, (stack, ends) in enumerate((("double", ("lora1", "lora2")), ("single", ("lora",)))):
            for end in ends:
                state |= pair(f"{stack}_blocks.{n}.processor.qkv_{end}", 3 * width, "down", "up")
                state |= pair(f"{stack}_blocks.{n}.processor.proj_{end}", width, "down", "up")
        theirs = convert._convert_xlabs_flux_lora_to_diffusers(dict(state))
    else:
        stems = [f"lora_unet_{UNET.format(x)}" for x in INNER] + [
            "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
            "lora_te_text_model_encoder_layers_0_mlp_fc1",
        ]
        if which == "flux":
            stems = [f"lora_unet_double_blocks_{draw.randint(0, 18)}_{x}" for x in FLUX]
        for stem in draw.sample(stems, draw.randint(2, len(stems))):
            state |= pair(stem, 36 if stem.endswith(("qkv", "lin")) else 16)
            state[f"{stem}.alpha"] = torch.tensor(alpha)
        if which == "flux":
            theirs = convert._convert_kohya_flux_lora_to_diffusers(dict(state))
        else:
            theirs, alphas = convert._convert_non_diffusers_lora_to_diffusers(dict(state))
            theirs = {k: v * alpha / rank if "up" in k or "lora_B" in k else v for k, v in theirs.items()}
            assert set(alphas.values()) == {alpha}
    ours = {(c.part, c.module): c.delta() for c in read_adapter(save(folder / "x.safetensors", state, dtype)).changes}
    named: dict[str, dict[str, Any]] = {}
    for key, value in theirs.items():
        stem, _, end = key.replace("_lora.", ".lora.").replace(".lora_linear_layer.", ".lora.").partition(".lora")
        named.setdefault(stem.replace(".processor", ""), {})["A" if "down" in end or "A" in end else "B"] = value
    assert len(named) == len(ours)
    for stem, factors in named.items():
        part, _, module = stem.partition(".")
        module = module.replace("to_out.lora", "to_out.0")
        found = ours.get((part, module), ours.get((part, f"{module}.0"), ours.get((part, _text(module)))))
        yield relative(found, factors["B"].double() @ factors["A"].double())


def _text(module: str) -> str:
    return module.replace("self_attn.to_q", "self_attn.q_proj")


def campaign(folder: Path, count: int, seed: int) -> tuple[int, float]:
    """How many adapters were compared and the largest relative difference of any layer's ΔW."""
    cases: list[Case] = [lycoris, peft, diffusers]
    largest = 0.0
    for i in range(count):
        draw = random.Random(f"{seed}/{i}")
        where = folder / str(i % 50)
        where.mkdir(exist_ok=True)
        for old in where.iterdir():
            old.unlink()
        found = list(cases[i % 3](draw, where))
        assert found
        worst = max(found)
        assert worst < 1e-6, f"case {seed}/{i}: {worst}"  # NaN fails too
        largest = max(largest, worst)
    return count, largest


def test_a_few_of_each(tmp_path: Path) -> None:
    pytest.importorskip("lycoris")
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    assert campaign(tmp_path, 90, 1)[1] < 1e-6


@pytest.mark.soak
def test_ten_thousand(tmp_path: Path) -> None:
    count, largest = campaign(tmp_path, 10_000, 2)
    assert (count, largest < 1e-6) == (10_000, True)
