"""The straight path between data and noise: where a sample is at time sigma, how it moves, and how to walk back.

Nothing here knows a network; a velocity is any function of (latents, sigma). sigma is 1 at pure noise and 0 at the
data, so the solver counts down and its steps are negative. SPEC 6 (training) and 7 (sampling).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

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
    """The solver's times: `steps` equal ones from 1 to 1/steps, then 0. sigmas(4) = [1, 0.75, 0.5, 0.25, 0]."""
    if steps < 1:
        raise ValueError(f"the solver needs at least 1 step, not {steps}; 25 to 50 are usual")
    return torch.cat([torch.linspace(1, 1 / steps, steps), torch.zeros(1)])


def euler(
    velocity: Velocity,
    noise: Float[Tensor, "S T Z"],
    steps: int,
    on_step: Callable[[int, Float[Tensor, "S T Z"]], None] | None = None,
) -> Float[Tensor, "S T Z"]:
    """Walks from noise to latents with Euler's method, in float32 whatever the velocity computes in.

    `on_step(step, latents)` is called after each step, with steps counted from 1 to `steps`.
    """
    latents = noise.float()
    times = sigmas(steps).to(noise.device)  # sliced, never read: reading would wait for the device at every step
    for step in range(1, steps + 1):
        sigma, sigma_next = times[step - 1 : step], times[step : step + 1]
        latents = latents + (sigma_next - sigma) * velocity(latents, sigma)
        if on_step is not None:
            on_step(step, latents)
    return latents


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
