"""The velocity network against the recorded conditioning, training loss and sampler, and what batching relies on."""

from __future__ import annotations

import copy
from pathlib import Path

import golden_weights
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.testing import assert_close

from audiostory.model import flow, solvers
from audiostory.model.dit import VelocityDiT, denoise, guided_velocity
from audiostory.model.inputs import Condition

SMALL = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "in_channels": 8,
    "max_seconds": 12.5,
    "axes_dims_rope": (4, 6, 6),
    "fixed_frames": None,
    "frame_rate": 25.0,
}


@pytest.fixture(scope="module")
def dit() -> VelocityDiT:
    """A small network whose zero layers were filled, as training would."""
    torch.manual_seed(0)
    dit = VelocityDiT(**SMALL)
    for parameter in dit.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return dit.eval()


def inputs(num_clips: int, num_frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Condition]:
    torch.manual_seed(seed)
    condition = Condition(tokens=torch.randn(num_clips, 5, 24), seconds=torch.rand(num_clips) * 12.5)
    return torch.randn(num_clips, num_frames, 8), torch.rand(num_clips), condition


# Parity with the release


@torch.no_grad()
def test_duration_tokens_are_the_releases(golden_dit: VelocityDiT):
    golden = golden_weights.data("conditioning")
    embeds = golden_dit.duration_embedder(golden["durations"])
    assert_close(embeds, golden["duration_embeds"][:, 0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_pooled_vector_is_the_releases(golden_dit: VelocityDiT):
    golden = golden_weights.data("conditioning")
    assert_close(F.relu(golden_dit.pooled(golden["cond_stack"].mean(dim=1))), golden["fc_pooled"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_velocity_and_flow_loss_are_the_releases(golden_dit: VelocityDiT):
    golden = golden_weights.data("flow_loss")
    condition = Condition(tokens=golden["t5_tokens"], seconds=golden["duration"])
    velocity = golden_dit(golden["noisy"], golden["sigma"], condition)
    assert_close(velocity, golden["model_pred"], rtol=0, atol=1e-5)
    loss = F.mse_loss(velocity, flow.velocity_target(golden["latents"], golden["noise"]))
    assert_close(loss, golden["loss"][0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("suffix", "guidance", "steps", "seconds"), [("", 4.0, 8, 6.5), ("_b", 2.5, 5, 3.0)], ids=["run1", "run2"]
)
def test_whole_sampler_is_the_releases(
    golden_dit: VelocityDiT, suffix: str, guidance: float, steps: int, seconds: float
):
    golden = golden_weights.data("sampler")
    condition = Condition(tokens=golden[f"fused{suffix}"], seconds=torch.tensor([seconds]))
    unconditional = golden_weights.data("conditioning")["cond_stack"][0]
    velocity = guided_velocity(golden_dit, condition, unconditional, guidance)
    trajectory, predictions = [golden[f"init_noise{suffix}"]], []

    def watched(latents: Tensor, sigma: Tensor) -> Tensor:
        predictions.append(velocity(latents, sigma))
        return predictions[-1]

    latents = flow.euler(watched, trajectory[0], steps, on_step=lambda step, now: trajectory.append(now))
    assert_close(latents, golden[f"latents{suffix}"], rtol=0, atol=1e-5)
    if not suffix:  # the second run was recorded without its steps
        assert_close(torch.stack(trajectory), golden["trajectory"], rtol=0, atol=1e-5)
        golden_weights.assert_as_recorded(torch.stack(predictions), golden["guided_pred"])  # up to 3.8


# Batching


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 4.0])
def test_clips_in_one_batch_are_denoised_as_if_alone(dit: VelocityDiT, guidance: float | None):
    noise, _, condition = inputs(3, 20)
    unconditional = torch.randn(5, 24)
    together = flow.euler(guided_velocity(dit, condition, unconditional, guidance), noise, 4)
    for clip in range(3):
        own = Condition(tokens=condition.tokens[clip : clip + 1], seconds=condition.seconds[clip : clip + 1])
        alone = flow.euler(guided_velocity(dit, own, unconditional, guidance), noise[clip : clip + 1], 4)
        assert_close(together[clip : clip + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 4.0])
def test_padded_clips_are_denoised_as_if_alone(dit: VelocityDiT, guidance: float | None):
    noise, _, condition = inputs(3, 20)
    frames = torch.tensor([20, 13, 1])
    unconditional = torch.randn(5, 24)
    together = flow.euler(guided_velocity(dit, condition, unconditional, guidance, frames), noise, 4)
    for clip, num_frames in enumerate(frames.tolist()):
        own = Condition(tokens=condition.tokens[clip : clip + 1], seconds=condition.seconds[clip : clip + 1])
        start = noise[clip : clip + 1, :num_frames]
        alone = flow.euler(guided_velocity(dit, own, unconditional, guidance), start, 4)
        assert_close(together[clip : clip + 1, :num_frames], alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("solver", solvers.EVALUATIONS)
def test_every_solver_denoises_clips_of_other_lengths_as_if_alone(dit: VelocityDiT, solver: str):
    noise, _, condition = inputs(3, 20)
    unconditional = torch.randn(5, 24)
    clips = [clip[:num_frames] for clip, num_frames in zip(noise, (20, 13, 1), strict=True)]
    together = denoise(dit, clips, condition, unconditional, steps=3, guidance=4.0, solver=solver)
    for clip, found in enumerate(together):
        own = Condition(tokens=condition.tokens[clip : clip + 1], seconds=condition.seconds[clip : clip + 1])
        velocity = guided_velocity(dit, own, unconditional, 4.0)
        assert_close(found[None], flow.solve(velocity, clips[clip][None], 3, solver), rtol=0, atol=1e-5)


def test_padding_gets_no_gradient_and_gives_none(dit: VelocityDiT):
    latents, sigma, condition = inputs(2, 12)
    frames = torch.tensor([12, 7])
    latents.requires_grad_()
    real = (torch.arange(12) < frames[:, None])[..., None]

    def gradients(padding: float) -> list[Tensor]:
        filled = torch.where(real, latents, padding)
        velocity = dit(filled, sigma, condition, frames)
        return list(torch.autograd.grad(velocity.mul(real).square().sum(), [latents, *dit.parameters()]))

    ours, others = gradients(padding=0.0), gradients(padding=1000.0)
    assert ours[0][1, 7:].abs().max() == 0
    assert ours[0][1, :7].abs().min() > 0
    for one, other in zip(ours, others, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_frames_that_pad_nothing_change_nothing(dit: VelocityDiT):
    latents, sigma, condition = inputs(2, 12)
    masked = dit(latents, sigma, condition, torch.tensor([12, 12]))
    assert_close(masked, dit(latents, sigma, condition), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 4.0])
def test_what_stays_over_the_steps_is_computed_once_and_changes_nothing(dit: VelocityDiT, monkeypatch, guidance):
    noise, _, condition = inputs(2, 12)
    frames, unconditional = torch.tensor([12, 7]), torch.randn(5, 24)
    dropped = Condition(tokens=unconditional.expand(2, -1, -1), seconds=condition.seconds)

    def afresh(latents: Tensor, sigma: Tensor) -> Tensor:
        followed = dit(latents, sigma, condition, frames)
        return followed if guidance is None else flow.guide(dit(latents, sigma, dropped, frames), followed, guidance)

    expected = flow.euler(afresh, noise, 3)
    prepared, prepare = [], VelocityDiT.prepare
    monkeypatch.setattr(VelocityDiT, "prepare", lambda *args: prepared.append(args) or prepare(*args))
    once = flow.euler(guided_velocity(dit, condition, unconditional, guidance, frames), noise, 3)
    assert len(prepared) == 1
    assert_close(once, expected, rtol=0, atol=0 if guidance is None else 1e-5)


# Guidance and conditioning


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0])
def test_guidance_up_to_one_just_follows_the_condition(dit: VelocityDiT, guidance: float | None):
    latents, _, condition = inputs(2, 12)
    sigma = torch.tensor([0.4])
    velocity = guided_velocity(dit, condition, torch.randn(5, 24), guidance)(latents, sigma)
    assert torch.equal(velocity, dit(latents, sigma, condition))


@torch.no_grad()
def test_unconditional_half_is_told_the_same_seconds(dit: VelocityDiT):
    latents, _, condition = inputs(2, 12)
    sigma, unconditional = torch.tensor([0.4]), torch.randn(5, 24)
    dropped = Condition(tokens=unconditional.expand(2, -1, -1), seconds=condition.seconds)
    expected = flow.guide(dit(latents, sigma, dropped), dit(latents, sigma, condition), 3.0)
    assert_close(guided_velocity(dit, condition, unconditional, 3.0)(latents, sigma), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_network_hears_tokens_and_seconds_but_not_the_tokens_order(dit: VelocityDiT):
    latents, sigma, condition = inputs(2, 12)
    velocity = dit(latents, sigma, condition)
    shuffled = Condition(tokens=condition.tokens.flip(1), seconds=condition.seconds)
    longer = Condition(tokens=condition.tokens, seconds=condition.seconds + 1)
    louder = Condition(tokens=condition.tokens * 1.5, seconds=condition.seconds)
    assert_close(dit(latents, sigma, shuffled), velocity, rtol=0, atol=1e-5)
    assert (dit(latents, sigma, longer) - velocity).abs().max() > 1e-3
    assert (dit(latents, sigma, louder) - velocity).abs().max() > 1e-3


def test_num_frames_covers_the_clip_or_is_fixed(dit: VelocityDiT, golden_dit: VelocityDiT):
    assert [dit.num_frames(seconds) for seconds in (0.01, 1.0, 8.2, 8.21, 12.5)] == [1, 25, 205, 206, 313]
    assert golden_dit.num_frames(2.0) == 40
    for seconds in (0.0, -1.0, 12.6, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"up to 12\.5 s"):
            dit.num_frames(seconds)


# Training and precision


@torch.no_grad()
def test_new_network_starts_by_predicting_zero():
    dit = VelocityDiT(**SMALL)
    zero = {name for name, parameter in dit.named_parameters() if not parameter.any()}
    blocks = ["transformer_blocks.0.norm1", "transformer_blocks.0.norm1_context"]
    blocks += [f"single_transformer_blocks.{i}.norm" for i in range(2)]
    layers = [*(f"transformer.{block}.linear" for block in [*blocks, "norm_out"]), "transformer.proj_out"]
    assert zero == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert not dit(*inputs(2, 12)).any()


def test_every_parameter_learns(dit: VelocityDiT):
    latents, sigma, condition = inputs(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dit(latents, sigma, condition).square().mean()
    gradients = torch.autograd.grad(loss, list(dit.parameters()))
    silent = [n for (n, _), g in zip(dit.named_parameters(), gradients, strict=True) if not g.any()]
    assert silent == []


def test_gradient_checkpointing_changes_no_gradient(dit: VelocityDiT):
    saving = copy.deepcopy(dit)
    saving.enable_gradient_checkpointing()
    gradients = []
    for network in (dit, saving):
        loss = network(*inputs(2, 12), frames=torch.tensor([12, 5])).square().mean()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_network_survives_saving(dit: VelocityDiT, tmp_path: Path):
    dit.save_pretrained(tmp_path)
    loaded = VelocityDiT.from_pretrained(tmp_path, use_safetensors=True)
    assert (loaded.fixed_frames, loaded.frame_rate, loaded.max_seconds) == (None, 25.0, 12.5)
    assert torch.equal(loaded(*inputs(2, 12)), dit(*inputs(2, 12)))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_weights_round_neither_latents_nor_time_nor_seconds(
    golden_dit: VelocityDiT, tmp_path: Path, dtype: torch.dtype, tolerance: float
):
    golden_dit.save_pretrained(tmp_path)
    half = VelocityDiT.from_pretrained(tmp_path, use_safetensors=True, torch_dtype=dtype)
    assert half.dtype == dtype
    assert half.duration_embedder.frequencies.dtype == torch.float32
    golden = golden_weights.data("flow_loss")
    condition = Condition(tokens=golden["t5_tokens"], seconds=torch.tensor([3.337, 12.601, 29.13]))
    for sigma in (0.961, 0.333):  # bf16 holds neither; a rounded time alone would cost an error of 0.04
        time = torch.tensor([sigma])
        velocity = half(golden["noisy"], time, condition)
        assert velocity.dtype == torch.float32
        error = velocity - golden_dit(golden["noisy"], time, condition)
        assert error.square().mean().sqrt() < tolerance


@pytest.mark.parametrize("frames", [None, [7, 3, 5]])
def test_plain_attention_gives_the_same_velocities_and_gradients(dit: VelocityDiT, frames: list[int] | None):
    latents, sigma, condition = inputs(3, 7)
    own = None if frames is None else torch.tensor(frames)
    plain = copy.deepcopy(dit)
    plain.use_plain_attention()
    for one in (dit, plain):
        one.zero_grad()
    expected, got = (one(latents, sigma, condition, own) for one in (dit, plain))
    for clip, count in enumerate(frames or [7, 7, 7]):
        assert_close(got[clip, :count], expected[clip, :count])
        expected[clip, :count].square().sum().backward(retain_graph=True)
        got[clip, :count].square().sum().backward(retain_graph=True)
    for theirs, ours in zip(dit.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
