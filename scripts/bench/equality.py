"""Whether two ways of computing told the same story: the same ids, and latents and samples that differ by rounding.

How much rounding may do is measured, not guessed. The bridge tokens are moved by one rounding, at random up or down,
and the story is rendered again: what that moves the latents by is what one rounding of all states costs. Two ways
round differently at each operation on the path, some OPERATIONS in each block of planner and DiT; as errors of chance
add up by their squares, the square root of their number times as much is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from bench.ours import Ours, Telling
from torch import Tensor

from audiostory.model.inputs import BridgeTokens
from audiostory.pipeline import AudioStoryPipeline, Plan

OPERATIONS = 10


@dataclass(frozen=True, kw_only=True)
class Equality:
    """Greatest differences between two tellings, and what they may be. `samples` are None where they do not compare."""

    same_ids: bool
    latents: float
    latents_allowed: float
    samples: float | None
    samples_allowed: float | None

    @property
    def equal(self) -> bool:
        heard = self.samples is None or self.samples_allowed is None or self.samples <= self.samples_allowed
        return self.same_ids and self.latents <= self.latents_allowed and heard

    def values(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal}


def compare(ours: Ours, one: Telling, other: Telling, seed: int, *, samples: bool = True) -> Equality:
    """Another way's telling with ours, without the samples where they need not be the same. A codec that looks for the
    phase (Griffin-Lim, over the whole clip) makes some 1e-3 of any rounding, so behind it they are not compared either.
    Different ids are told without more."""
    if one.ids != other.ids:
        return Equality(same_ids=False, latents=math.inf, latents_allowed=0.0, samples=None, samples_allowed=None)
    pipeline = ours.pipeline
    moved, sound = ours.render(nudged(one.plan, seed), seed)
    factor = math.sqrt(OPERATIONS * num_blocks(pipeline))
    compares = samples and pipeline.codec.front != "spectrogram"

    def samples_apart(audio: Any) -> float:
        return float(abs(one.audio.story.samples - audio.story.samples).max())

    return Equality(
        same_ids=True,
        latents=apart(one.latents, other.latents),
        latents_allowed=factor * apart(one.latents, moved),
        samples=samples_apart(other.audio) if compares else None,
        samples_allowed=factor * samples_apart(sound) if compares else None,
    )


def apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(some, others, strict=True))


def nudged(plan: Plan, seed: int) -> Plan:
    """The plan with its states one rounding of their kind away.

    A rounding is off by half the distance to the next number, and no state can move by half of it. A quarter of them
    moved by all of it weigh as much, since errors of chance add up by their squares.
    """
    generator = torch.Generator().manual_seed(seed)

    def nudge(states: Tensor) -> Tensor:
        chance = torch.rand(states.shape, generator=generator).to(states.device)
        steps = (chance < 1 / 8).float() - (chance > 7 / 8).float()
        exponents = torch.frexp(states.float()).exponent - 1
        distance = torch.ldexp(torch.full_like(steps, torch.finfo(states.dtype).eps), exponents)
        return (states.float() + steps * distance).to(states.dtype)

    tokens = BridgeTokens(semantic=nudge(plan.bridge_tokens.semantic), residual=nudge(plan.bridge_tokens.residual))
    return replace(plan, bridge_tokens=tokens)


def num_blocks(pipeline: AudioStoryPipeline) -> int:
    return pipeline.planner.qwen.config.num_hidden_layers + len(pipeline.dit.blocks)
