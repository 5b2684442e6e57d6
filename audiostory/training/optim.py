"""What turns gradients into steps: AdamW with one learning rate per part, its schedule, and moving averages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audiostory.training.stages import Optimizer, Stage, choose


def open_parts(root: nn.Module, stage: Stage) -> dict[str, dict[str, nn.Parameter]]:
    """Lets exactly the stage's parameters learn, everything else rest: {part: {name: parameter}}."""
    parameters = dict(root.named_parameters())
    root.requires_grad_(False)
    parts = {part: {name: parameters[name] for name in names} for part, names in choose(stage, parameters).items()}
    for part in parts.values():
        for parameter in part.values():
            parameter.requires_grad_(True)
    return parts


def adamw(parts: Mapping[str, Mapping[str, nn.Parameter]], stage: Stage) -> torch.optim.AdamW:
    """One group per part, and one more for its vectors (norms, biases, scales), which weight decay is not meant for."""
    groups = []
    for part, named in parts.items():
        for decay in (True, False):
            members = [parameter for parameter in named.values() if (parameter.ndim > 1) == decay]
            rate = stage.parts[part].learning_rate
            groups.append(
                {
                    "params": members,
                    "lr": rate,
                    "peak": rate,
                    "part": part,
                    "weight_decay": stage.optimizer.weight_decay if decay else 0.0,
                }
            )
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=stage.optimizer.betas, fused=True)


def rate_factor(settings: Optimizer, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step`: a linear rise, a plateau, a cosine down to `final_share`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    fall_from = max(settings.warmup_steps, settings.plateau_share * steps)
    if step < fall_from or steps <= fall_from:
        return 1.0
    progress = min(1.0, (step - fall_from) / (steps - fall_from))
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, settings: Optimizer, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(settings, step, steps)


class Averages:
    """Exponential moving averages of the parts that ask for them, in float32. Young averages follow faster."""

    def __init__(self, parts: Mapping[str, Mapping[str, nn.Parameter]], stage: Stage):
        self.decay = stage.optimizer.ema_decay
        self.live = {name: p for part, named in parts.items() if stage.parts[part].ema for name, p in named.items()}
        self.averaged = {name: p.detach().float().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 0."""
        if self.live:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.averaged.values()), [p.float() for p in self.live.values()], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model carries the averages: for listening, validating and exporting."""
        kept = {name: p.detach().clone() for name, p in self.live.items()}
        self._copy(self.averaged)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.live.items():
            parameter.copy_(values[name])
