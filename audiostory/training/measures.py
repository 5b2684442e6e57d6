"""What a stretch of steps measured: losses, gradient norms, how full the batches were, how fast it went.

Tensors stay on their device until a log line is due, so that a step waits for nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from audiostory.model.inputs import ClipBatch, Losses, StoryBatch
from audiostory.training.optim import TOTAL


@dataclass(frozen=True, kw_only=True)
class _MicroBatch:
    step: int
    rows: tuple[str, ...]
    losses: Mapping[str, Tensor]
    total: Tensor


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A stretch in numbers, of one process or of all: means of losses and norms, sums of the rest."""

    losses: Mapping[str, float]
    total: float
    norms: Mapping[str, float]
    num: int  # micro-batches
    steps: int
    seconds: float
    waited: float
    tokens: int  # of scripts, without padding
    token_room: int
    frames: int
    frame_room: int
    audio_seconds: float

    def values(self) -> dict[str, float]:
        """What goes into the log, by name."""
        padding = {
            f"padding_share/{what}": 1 - content / room
            for what, content, room in (
                ("tokens", self.tokens, self.token_room),
                ("frames", self.frames, self.frame_room),
            )
            if room
        }
        return {
            **({"loss": self.total} if self.num else {}),
            **{f"loss/{name}": value for name, value in self.losses.items()},
            **{f"gradient_norm/{part}": value for part, value in self.norms.items()},
            "seconds_per_step": self.seconds / self.steps,
            "waiting_share": self.waited / self.seconds,
            **padding,
            "tokens_per_second": self.tokens / self.seconds,
            "audio_seconds_per_second": self.audio_seconds / self.seconds,
        }

    def shown(self) -> dict[str, str]:
        """What stands beside the progress bar."""
        speed = {"tok/s": self.tokens / self.seconds, "audio s/s": self.audio_seconds / self.seconds}
        return {
            **{name: f"{value:.3f}" for name, value in self.losses.items()},
            **{name: f"{value:.0f}" for name, value in speed.items() if value},
        }


@dataclass
class Measures:
    """Filled step by step; `summary` reads it out."""

    micro_batches: list[_MicroBatch] = field(default_factory=list)
    norms: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # by step
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    token_room: int = 0
    frames: int = 0
    frame_room: int = 0
    audio_seconds: float = 0.0

    def add(self, step: int, batch: Any, losses: Losses, total: Tensor) -> None:
        named = {name: value.detach() for name, value in losses.named.items()}
        self.micro_batches.append(_MicroBatch(step=step, rows=batch.sample_ids, losses=named, total=total.detach()))
        if isinstance(batch, StoryBatch):
            self.tokens += int(batch.attention.sum())
            self.token_room += batch.attention.numel()
        if isinstance(batch, StoryBatch | ClipBatch) and batch.latents is not None:
            self.frames += int(batch.frames.sum())
            self.frame_room += batch.latents.shape[0] * batch.latents.shape[1]
            self.audio_seconds += float(batch.seconds.sum())

    def finite(self) -> bool:
        values = [*(one.total for one in self.micro_batches), *(norms[TOTAL] for norms in self.norms.values())]
        return not values or math.isfinite(sum(torch.stack([value.float().cpu() for value in values]).tolist()))

    def not_finite(self) -> list[dict[str, Any]]:
        """The micro-batches of every step that was not finite here, for the record."""
        norms = {step: norms[TOTAL] for step, norms in self.norms.items()}
        bad = {one.step for one in self.micro_batches if not one.total.isfinite()}
        bad |= {step for step, norm in norms.items() if not norm.isfinite()}
        return [
            {
                "step": one.step,
                "rows": list(one.rows),
                "losses": {name: value.item() for name, value in one.losses.items()},
                "norm": norms[one.step].item() if one.step in norms else None,
            }
            for one in self.micro_batches
            if one.step in bad
        ]

    def forget(self, steps: Collection[int]) -> None:
        """Steps that were not finite in any process count in none."""
        self.micro_batches = [one for one in self.micro_batches if one.step not in steps]
        self.norms = {step: norm for step, norm in self.norms.items() if step not in steps}

    def summary(self) -> Summary:
        num = len(self.micro_batches)
        return Summary(
            losses=_means([one.losses for one in self.micro_batches]),
            total=_mean([one.total for one in self.micro_batches]) if num else math.nan,
            norms=_means(list(self.norms.values())),
            num=num,
            steps=max(1, len({one.step for one in self.micro_batches})),
            seconds=time.perf_counter() - self.began,
            waited=self.waited,
            tokens=self.tokens,
            token_room=self.token_room,
            frames=self.frames,
            frame_room=self.frame_room,
            audio_seconds=self.audio_seconds,
        )

    @staticmethod
    def together(processes: Sequence[Summary]) -> Summary:
        """All processes' summaries as one. They took equally many micro-batches, so means of means are means."""
        first = processes[0]
        if len(processes) == 1:
            return first

        def mean(values: Sequence[float]) -> float:
            return sum(values) / len(values)

        def means(names: Sequence[Mapping[str, float]]) -> dict[str, float]:
            known = dict.fromkeys(name for one in names for name in one)
            return {name: mean([one[name] for one in names if name in one]) for name in known}

        return Summary(
            losses=means([one.losses for one in processes]),
            total=mean([one.total for one in processes]),
            norms=first.norms,
            num=sum(one.num for one in processes),
            steps=first.steps,
            seconds=first.seconds,
            waited=max(one.waited for one in processes),
            tokens=sum(one.tokens for one in processes),
            token_room=sum(one.token_room for one in processes),
            frames=sum(one.frames for one in processes),
            frame_room=sum(one.frame_room for one in processes),
            audio_seconds=sum(one.audio_seconds for one in processes),
        )


def _means(named: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in named for name in one)
    return {name: _mean([one[name] for one in named if name in one]) for name in names}


def _mean(values: Sequence[Tensor]) -> float:
    return torch.stack(list(values)).float().mean().item()
