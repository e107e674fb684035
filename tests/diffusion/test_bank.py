"""The bank draws what PEFT draws, for every sample its own identity."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from tests.diffusion import small  # noqa: E402
from w2w_registry.diffusion.bank import LoraBank  # noqa: E402
from w2w_registry.space.layout import LayoutTensor, layout_of  # noqa: E402


@pytest.fixture(scope="module")
def tiny_unet():
    return small.unet()


@pytest.fixture(scope="module")
def tiny_layout(tiny_unet):
    return small.layout(tiny_unet)


def inputs(count: int, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, 4, 8, 8), generator=generator)
    text = torch.randn((count, 5, 12), generator=generator)
    return x, torch.arange(count) * 90 + 3, text


def thetas(layout, count: int):
    return 0.3 * torch.randn((count, layout.dim), generator=torch.Generator().manual_seed(2))


def with_peft(unet, layout, theta, x, t, text, magnitudes=None):
    """The same LoRA (a DoRA with ``magnitudes``, by module), injected by PEFT into a copy."""
    config = peft.LoraConfig(
        r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.modules), use_dora=magnitudes is not None
    )
    model = copy.deepcopy(unet)
    model.add_adapter(config)
    state = {
        f"{tensor.module}.lora_{tensor.factor}.weight": theta[part].reshape(tensor.shape)
        for tensor, part in layout.slices()
    }
    state |= {f"{module}.lora_magnitude_vector": value for module, value in (magnitudes or {}).items()}
    peft.set_peft_model_state_dict(model, state)
    with torch.no_grad():
        return model.eval()(x, t, text).sample


def close(a, b) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def test_equals_peft_for_every_identity_of_a_batch(tiny_unet, tiny_layout):
    x, t, text = inputs(6)
    theta = thetas(tiny_layout, 3)
    with torch.no_grad(), LoraBank(tiny_unet, tiny_layout).apply(theta):
        out = tiny_unet(x, t, text).sample
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        assert close(out[rows], with_peft(tiny_unet, tiny_layout, theta[i], x[rows], t[rows], text[rows]))


def test_doras_of_a_batch_equal_peft(tiny_unet, tiny_layout):
    x, t, text = inputs(4)
    theta = thetas(tiny_layout, 2)
    bank = LoraBank(tiny_unet, tiny_layout)
    sizes = [tiny_layout.by_key[module, "B"].shape[0] for module in tiny_layout.modules]
    assert bank.outputs == sum(sizes)
    own = torch.cat([tiny_unet.get_submodule(module).weight.norm(dim=1) for module in tiny_layout.modules]).detach()
    magnitudes = own * (1 + torch.rand((2, bank.outputs), generator=torch.Generator().manual_seed(4)))
    with torch.no_grad(), bank.apply(theta, magnitudes=magnitudes):
        out = tiny_unet(x, t, text).sample
    with torch.no_grad(), bank.apply(theta, torch.tensor([1, 0, 1, 0]), magnitudes):
        turned = tiny_unet(x, t, text).sample
    for n, i in enumerate((0, 0, 1, 1)):
        rows = slice(n, n + 1)
        for which, answer in ((i, out), ((n + 1) % 2, turned)):
            named = dict(zip(tiny_layout.modules, magnitudes[which].split(sizes), strict=True))
            theirs = with_peft(tiny_unet, tiny_layout, theta[which], x[rows], t[rows], text[rows], named)
            assert close(answer[rows], theirs)
    with pytest.raises(ValueError, match="magnitudes"), bank.apply(theta, magnitudes=magnitudes[:, 1:]):
        pass


def test_groups_in_any_order_and_doubled_by_guidance(tiny_unet, tiny_layout):
    x, t, text = inputs(4)
    theta = thetas(tiny_layout, 3)
    group = torch.tensor([2, 0, 2, 1])
    bank = LoraBank(tiny_unet, tiny_layout)
    with torch.no_grad(), bank.apply(theta, group):
        out = tiny_unet(x, t, text).sample
        doubled = tiny_unet(x.repeat(2, 1, 1, 1), t.repeat(2), text.repeat(2, 1, 1)).sample
    for n, i in enumerate(group.tolist()):
        one = slice(n, n + 1)
        assert close(out[one], with_peft(tiny_unet, tiny_layout, theta[i], x[one], t[one], text[one]))
    assert close(doubled[:4], out)
    assert close(doubled[4:], out)


def test_leaves_the_model_as_it_was(tiny_unet, tiny_layout):
    x, t, text = inputs(2)
    with torch.no_grad():
        before = tiny_unet(x, t, text).sample
        with pytest.raises(RuntimeError), LoraBank(tiny_unet, tiny_layout).apply(thetas(tiny_layout, 1)):
            raise RuntimeError
        assert torch.equal(tiny_unet(x, t, text).sample, before)


def test_gradient_reaches_coordinates(tiny_unet, tiny_layout):
    x, t, text = inputs(2)
    components = torch.randn((tiny_layout.dim, 3), generator=torch.Generator().manual_seed(3)) * 0.1
    c = torch.zeros((2, 3), requires_grad=True)
    theta = thetas(tiny_layout, 1) + c @ components.T
    with LoraBank(tiny_unet, tiny_layout).apply(theta):
        tiny_unet(x, t, text).sample.square().sum().backward()
    assert c.grad is not None
    assert (c.grad.abs() > 0).all()


def test_refuses_what_does_not_fit(tiny_unet, tiny_layout):
    bank = LoraBank(tiny_unet, tiny_layout)
    with pytest.raises(ValueError, match="the layout needs"), bank.apply(torch.zeros(1, 3)):
        pass
    x, t, text = inputs(3)
    with pytest.raises(ValueError, match="does not split"), bank.apply(thetas(tiny_layout, 2)):
        tiny_unet(x, t, text)
    with pytest.raises(ValueError, match="no module"):
        LoraBank(tiny_unet, layout_of({("nowhere", "A"): (1, 2), ("nowhere", "B"): (2, 1)}, 1.0))
    wrong = copy.copy(tiny_layout)
    first = wrong.tensors[0]
    tensors = (LayoutTensor(first.module, "A", (2, 5)), *wrong.tensors[1:])
    with pytest.raises(ValueError, match="do not fit"):
        LoraBank(tiny_unet, type(wrong)(tensors, 6.0))
