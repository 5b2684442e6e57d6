"""Weights of 8 bits: what they save, what they cost, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiostory.model import tiny
from audiostory.model.dit import VelocityDiT
from audiostory.model.inputs import Condition
from audiostory.model.int8 import Int8Linear, num_bytes, weights_to_int8
from audiostory.model.planner import LoraSettings, Planner, PlannerConfig


def parts() -> tuple[Planner, VelocityDiT]:
    return tiny.planner(), tiny.dit()


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_computed_changes_by_little(dtype: torch.dtype):
    (planner, dit), (small_planner, small_dit) = ((one.to(dtype), two.to(dtype)) for one, two in (parts(), parts()))
    weights_to_int8(small_planner, small_dit)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(tiny.vocabulary()), (2, 40), generator=generator)
    logits = [one.logits(one.states(ids)) for one in (small_planner, planner)]
    assert logits[0].dtype == dtype
    tokens = torch.randn(3, tiny.NUM_SEMANTIC, tiny.CONDITION_WIDTH, generator=generator)
    condition = Condition(tokens=tokens, seconds=torch.tensor([0.5, 1.0, 2.0]))
    latents = torch.randn(3, 40, tiny.LATENT_CHANNELS, generator=generator)
    velocities = [one(latents, torch.tensor([0.7]), condition) for one in (small_dit, dit)]
    for ours, theirs in (logits, velocities):
        assert 1e-4 < relative_error(ours, theirs) < 0.03


def test_layers_shrink_to_a_quarter_and_the_rest_stays():
    planner = Planner.random(PlannerConfig(vocab_size=10, hidden=128, layers=2, intermediate=512))
    dit = tiny.dit()
    linears = [layer for layer in planner.qwen.model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    before, around = num_bytes(planner.qwen.model.layers), num_bytes(dit.duration_embedder)
    assert before == sum(p.numel() * 4 for p in planner.qwen.model.layers.parameters())
    weights_to_int8(planner, dit)
    assert len(linears) == 14
    assert num_bytes(planner.qwen.model.layers) < 0.29 * before
    assert num_bytes(dit.duration_embedder) == around
    assert planner.qwen.lm_head.weight is planner.qwen.model.embed_tokens.weight


def test_sums_that_float16_holds_stay_finite_in_it():
    linear = torch.nn.Linear(2048, 4)
    torch.nn.init.constant_(linear.weight, 0.005)  # levels of 127: their sums would be 127 * 2048 * 3 = 780,288
    linear = linear.to(torch.float16)
    inputs = torch.full((1, 2048), 3.0, dtype=torch.float16)
    outputs = Int8Linear(linear)(inputs)
    assert outputs.dtype == torch.float16
    torch.testing.assert_close(outputs, linear(inputs), rtol=2e-3, atol=0)


def test_a_compiled_layer_computes_the_same():
    layer, inputs = Int8Linear(torch.nn.Linear(5, 3)), torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), layer(inputs))


def test_a_script_is_written_with_them():
    planner, dit = parts()
    vocabulary = tiny.vocabulary()
    weights_to_int8(planner, dit)
    prompt = vocabulary.encode("rain<|think|>")
    alone = planner.write(prompt, vocabulary, max_new_tokens=20)
    assert len(alone.ids) == 20
    (together, _) = planner.write_many([prompt, [1]], vocabulary, max_new_tokens=20)
    assert together.ids == alone.ids


def test_they_are_not_saved(tmp_path):
    for part in parts():
        part.save_pretrained(tmp_path / "before")
    small = parts()
    weights_to_int8(*small)
    for part in small:
        with pytest.raises(ValueError, match="8 bits are not saved"):
            part.save_pretrained(tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_lora_that_is_apart_is_refused():
    planner, dit = parts()
    planner.add_lora(LoraSettings(rank=2, alpha=2))
    with pytest.raises(ValueError, match="merge_lora"):
        weights_to_int8(planner, dit)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    st.booleans(),
)
def test_every_weight_is_off_by_half_a_level_at_most(inputs: int, outputs: int, size: float, biased: bool):
    linear = torch.nn.Linear(inputs, outputs, bias=biased)
    linear.weight.data.mul_(size)
    small = Int8Linear(linear)
    rounded = small.weight.float() * small.scale[:, None]
    assert ((rounded - linear.weight).abs() <= 0.501 * small.scale[:, None]).all()
    eye = torch.eye(inputs)
    expected = torch.nn.functional.linear(eye, rounded, linear.bias)
    torch.testing.assert_close(small(eye), expected)


def test_a_row_of_zeros_stays_zero():
    linear = torch.nn.Linear(3, 2, bias=False)
    linear.weight.data.zero_()
    assert torch.equal(Int8Linear(linear)(torch.ones(1, 3)), torch.zeros(1, 2))
