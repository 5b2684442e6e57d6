"""The flow against the recorded training draws, and the solver on velocities whose path is known."""

from __future__ import annotations

import math
from itertools import pairwise

import golden_weights
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from audiostory.model import flow, solvers

EVERY_SOLVER = pytest.mark.parametrize("solver", solvers.EVALUATIONS)


def test_training_draws_and_path_are_the_releases():
    golden = golden_weights.data("flow_loss")
    torch.manual_seed(1234 + 2)
    noise = torch.randn_like(golden["latents"])  # the release draws the noise first
    sigma = flow.sample_sigma(3, "logit_normal")

    assert torch.equal(noise, golden["noise"])
    assert_close(sigma, golden["sigma"], rtol=0, atol=1e-7)
    assert_close(flow.interpolate(golden["latents"], noise, sigma), golden["noisy"], rtol=0, atol=1e-6)
    loss = (golden["model_pred"] - flow.velocity_target(golden["latents"], noise)).square().mean()
    assert_close(loss, golden["loss"][0], rtol=1e-5, atol=0)


def test_path_leads_from_data_to_noise_at_the_target_velocity():
    data, noise = torch.randn(2, 1, 5, 3).double()
    at = lambda sigma: flow.interpolate(data, noise, torch.tensor([sigma]).double())  # noqa: E731
    assert torch.equal(at(0.0), data)
    assert torch.equal(at(1.0), noise)
    assert_close((at(0.7) - at(0.3)) / 0.4, flow.velocity_target(data, noise))


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_sampled_sigmas_lie_above_0_and_up_to_1(distribution: str):
    sigma = flow.sample_sigma(100_000, distribution, torch.Generator().manual_seed(0))
    assert sigma.dtype == torch.float32
    assert sigma.min() > 0
    assert sigma.max() <= 1
    assert sigma.mean().item() == pytest.approx(0.5, abs=0.01)
    assert sigma.std().item() == pytest.approx({"uniform": 0.289, "logit_normal": 0.208}[distribution], abs=0.005)


def test_sampled_sigmas_follow_the_generator():
    draws = [flow.sample_sigma(4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_unknown_sigma_distribution_is_named():
    with pytest.raises(ValueError, match="cosine"):
        flow.sample_sigma(2, "cosine")


def test_solver_times_are_the_releases():
    assert_close(flow.sigmas(8), golden_weights.data("sampler")["sigmas"], rtol=0, atol=1e-7)
    assert_close(flow.sigmas(5)[:-1] * 1000, golden_weights.data("sampler")["timesteps_b"])
    with pytest.raises(ValueError, match="at least 1 step"):
        flow.sigmas(0)


@EVERY_SOLVER
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_solver_is_exact_on_a_straight_path(steps: int, solver: str):
    data, noise = torch.randn(2, 3, 6, 4)
    assert_close(flow.solve(lambda latents, sigma: noise - data, noise, steps, solver), data)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("ab2", 2)])
@pytest.mark.parametrize("steps", [16, 32])
def test_twice_the_steps_leave_the_share_of_the_error_that_the_order_promises(solver: str, order: int, steps: int):
    """dx/dsigma = -x (1 + sigma) from x(1) = 1, so x(0) = exp(1.5)."""
    few, many = (
        flow.solve(lambda x, sigma: -x * (1 + sigma), torch.ones(1, 1, 1), num, solver).item() - math.exp(1.5)
        for num in (steps, 2 * steps)
    )
    assert few / many == pytest.approx(2**order, rel=0.1)


@settings(deadline=None)
@given(st.floats(-2, 2), st.integers(1, 30))
def test_linear_velocities_are_multiplied_as_theory_says(rate: float, steps: int):
    """On dx/dsigma = rate x every step is known in closed form, with z = -rate / steps."""
    z = -rate / steps
    one, other = np.roots([1, -(1 + 1.5 * z), 0.5 * z])  # x_n+1 = x_n + z (1.5 x_n - 0.5 x_n-1), and x_1 = 1 + z
    share = (1 + z - other) / (one - other)
    expected = {
        "euler": (1 + z) ** steps,
        "midpoint": (1 + z + z**2 / 2) ** steps,
        "heun": (1 + z + z**2 / 2) ** steps,
        "ab2": share * one**steps + (1 - share) * other**steps,
    }
    noise = torch.tensor([[[1.0, -3.0]]])
    for solver, factor in expected.items():
        found = flow.solve(lambda latents, sigma: rate * latents, noise, steps, solver)
        assert_close(found, noise * factor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_euler_is_the_plain_walk_to_the_last_bit(steps: int):
    noise, mix = torch.randn(2, 5, 4), torch.randn(4, 4)

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.sin(latents @ mix + sigma)

    expected, times = noise, flow.sigmas(steps)
    for now, then in pairwise(times[:, None]):
        expected = expected + (then - now) * velocity(expected, now)
    assert torch.equal(flow.solve(velocity, noise, steps), expected)
    assert torch.equal(flow.euler(velocity, noise, steps), expected)


@EVERY_SOLVER
def test_the_velocity_is_asked_as_often_as_told_and_at_no_time_outside_the_path(solver: str):
    times, steps = [], []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert (latents.shape, sigma.shape) == ((2, 5, 4), (1,))
        times.append(sigma.item())
        return latents

    latents = flow.solve(velocity, torch.ones(2, 5, 4), 4, solver, on_step=lambda step, now: steps.append(step))
    assert latents.shape == (2, 5, 4)
    assert steps == [1, 2, 3, 4]
    assert len(times) == solvers.evaluations(solver, 4)
    between = {"midpoint": [1, 0.875, 0.75, 0.625], "heun": [1, 0.75, 0.75, 0.5]}
    assert times[:4] == between.get(solver, [1, 0.75, 0.5, 0.25])
    assert min(times) == {"midpoint": 0.125, "heun": 0}.get(solver, 0.25)


def test_an_unknown_solver_is_refused_before_the_velocity_is_asked():
    with pytest.raises(ValueError, match="'midpoint' was meant"):
        flow.solve(lambda latents, sigma: pytest.fail("asked"), torch.ones(1, 1, 1), 4, "mid-point")


def test_euler_reports_every_step_and_hands_out_its_time():
    seen, times = [], []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        times.append(sigma)
        return latents

    latents = flow.euler(velocity, torch.ones(1, 1, 1), 4, on_step=lambda step, now: seen.append((step, now.item())))
    assert seen == [(1, 0.75), (2, 0.5625), (3, 0.421875), (4, 0.31640625)]
    assert latents.item() == 0.31640625
    assert torch.equal(torch.cat(times), flow.sigmas(4)[:-1])
    assert times[0].shape == (1,)


@EVERY_SOLVER
def test_latents_stay_float32_when_the_velocity_is_half(solver: str):
    latents = flow.solve(lambda latents, sigma: latents.half(), torch.randn(1, 4, 4).half(), 3, solver)
    assert latents.dtype == torch.float32


def test_guidance_of_0_and_1_and_beyond():
    u, c = torch.randn(2, 1, 5, 3)
    assert torch.equal(flow.guide(u, c, 0.0), u)
    assert_close(flow.guide(u, c, 1.0), c)
    assert_close(flow.guide(u, c, 4.0), 4 * c - 3 * u)


def test_clip_noise_depends_on_seed_and_index_only():
    noise = flow.clip_noise(3, 1, 40, 64)
    torch.manual_seed(99)
    assert torch.equal(noise, flow.clip_noise(3, 1, 40, 64))
    assert (noise.shape, noise.dtype, noise.device.type) == ((40, 64), torch.float32, "cpu")
    others = [flow.clip_noise(seed, index, 40, 64) for seed, index in ((3, 0), (3, 2), (1, 3), (4, 1))]
    assert all(abs(torch.corrcoef(torch.stack([noise.flatten(), o.flatten()]))[0, 1]) < 0.1 for o in others)


def test_drawing_clip_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    flow.clip_noise(0, 0, 8, 8, shared=True)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("seed", "suffix"), [(0, ""), (77, "_b")])
def test_shared_noise_is_the_releases_for_every_clip(seed: int, suffix: str):
    golden = golden_weights.data("sampler")[f"init_noise{suffix}"][0]
    assert torch.equal(flow.clip_noise(seed, 0, 40, 64, shared=True), golden)
    assert torch.equal(flow.clip_noise(seed, 5, 40, 64, shared=True), golden)
