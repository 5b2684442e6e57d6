"""The straight path between data and noise: where a sample is at time sigma, how it moves, and how to walk back.

Nothing here knows a network; a velocity is any function of (latents, sigma). sigma is 1 at pure noise and 0 at the
data, so a solver counts down and its steps are negative. SPEC 6 (training) and 7 (sampling).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiostory.model import solvers

Velocity = Callable[[Float[Tensor, "S T Z"], Float[Tensor, " 1"]], Float[Tensor, "S T Z"]]


def interpolate(
    data: Float[Tensor, "S T Z"], noise: Float[Tensor, "S T Z"], sigma: Float[Tensor, " S"]
) -> Float[Tensor, "S T Z"]:
    """The point of each sample's path at its own sigma."""
    sigma = sigma[:, None, None]
    return (1 - sigma) * data + sigma * noise


def velocity_target(data: Float[Tensor, "S T Z"], noise: Float[Tensor, "S T Z"]) -> Float[Tensor, "S T Z"]:
    """d(interpolate)/d(sigma): the same all along the path."""
    return noise - data


def sample_sigma(
    num: int, distribution: str = "uniform", generator: torch.Generator | None = None
) -> Float[Tensor, " {num}"]:
    """Training times in (0, 1], float32, on the generator's device (without one: the CPU).

    `uniform` is the paper's. `logit_normal` is the release's: u = sigmoid(normal), then floored to a thousand steps,
    sigma = 1 - floor(1000 u) / 1000 (SPEC 6).
    """
    device = generator.device if generator is not None else "cpu"
    if distribution == "uniform":
        return 1 - torch.rand(num, generator=generator, device=device)
    if distribution == "logit_normal":
        u = torch.sigmoid(torch.randn(num, generator=generator, device=device))
        return 1 - torch.floor(1000 * u) / 1000
    raise ValueError(f"sigma_distribution must be uniform or logit_normal, not {distribution!r}")


def sigmas(steps: int) -> Float[Tensor, " {steps}+1"]:
    """Where a solver's steps begin and end: `steps` equal ones from 1 to 0. sigmas(4) = [1, 0.75, 0.5, 0.25, 0]."""
    if steps < 1:
        raise ValueError(f"the solver needs at least 1 step, not {steps}; 25 to 50 are usual")
    return torch.cat([torch.linspace(1, 1 / steps, steps), torch.zeros(1)])


OnStep = Callable[[int, Float[Tensor, "S T Z"]], None]
"""Is called after each step with its number, from 1 on, and the latents it has led to."""


def solve(
    velocity: Velocity,
    noise: Float[Tensor, "S T Z"],
    steps: int,
    solver: str = "euler",
    on_step: OnStep | None = None,
) -> Float[Tensor, "S T Z"]:
    """Walks from noise to latents, in float32 whatever the velocity computes in.

    `steps` are the solver's: each asks for the velocity once (`euler`, `ab2`) or twice (`midpoint`, `heun`), so equal
    work is half as many steps of those (`solvers.evaluations`). Twice as many steps leave half of Euler's error and,
    where the velocity is smooth, a quarter of the others'. The release takes Euler's (SPEC 7).
    """
    solvers.check(solver)
    latents, before = noise.float(), None
    times = sigmas(steps).to(noise.device)  # sliced, never read: reading would wait for the device at every step
    for step in range(1, steps + 1):
        sigma, sigma_next = times[step - 1 : step], times[step : step + 1]
        change = sigma_next - sigma
        slope = velocity(latents, sigma)
        if solver == "midpoint":
            slope = velocity(latents + change / 2 * slope, sigma + change / 2)
        elif solver == "heun":  # at the last step this asks for sigma 0, where training came close but never was
            slope = (slope + velocity(latents + change * slope, sigma_next)) / 2
        elif solver == "ab2":  # the line through this slope and the last one, half a step on; steps are equal
            slope, before = slope if before is None else 1.5 * slope - 0.5 * before, slope
        latents = latents + change * slope
        if on_step is not None:
            on_step(step, latents)
    return latents


def euler(
    velocity: Velocity, noise: Float[Tensor, "S T Z"], steps: int, on_step: OnStep | None = None
) -> Float[Tensor, "S T Z"]:
    """`solve` as the release does it (SPEC 7)."""
    return solve(velocity, noise, steps, "euler", on_step)


def guide(
    unconditional: Float[Tensor, "S T Z"], conditional: Float[Tensor, "S T Z"], scale: float
) -> Float[Tensor, "S T Z"]:
    """Classifier-free guidance: the step from unconditional to conditional, taken `scale` times."""
    return unconditional + scale * (conditional - unconditional)


def clip_noise(seed: int, index: int, frames: int, channels: int, shared: bool = False) -> Float[Tensor, "T Z"]:
    """The noise that the clip at `index` starts from: float32 on the CPU, so every machine tells the same story.

    It depends on (seed, index) and the shape, not on the other clips. `shared` gives every clip the one noise that the
    release uses, which is torch.manual_seed(seed) (SPEC 7). `seed` must not be negative.
    """
    clip_seed = seed if shared else int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(clip_seed)
    return torch.randn(frames, channels, generator=generator)
