"""What turns gradients into steps: AdamW or Muon with one learning rate per part, its schedule, moving averages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audiostory.training.stages import Optimizer, Stage, choose

TOTAL = "total"  # the norm of all gradients together


def open_parts(root: nn.Module, stage: Stage) -> dict[str, dict[str, nn.Parameter]]:
    """Lets exactly the stage's parameters learn, everything else rest: {part: {name: parameter}}."""
    parameters = dict(root.named_parameters())
    root.requires_grad_(False)
    parts = {part: {name: parameters[name] for name in names} for part, names in choose(stage, parameters).items()}
    for part in parts.values():
        for parameter in part.values():
            parameter.requires_grad_(True)
    return parts


class Optimizers:
    """Several optimisers that step as one."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers

    def only_adamw(self) -> torch.optim.AdamW:
        """For engines that take one optimiser and share out its state element by element, which Muon's is not."""
        (first, *others) = self.optimizers
        if others or not isinstance(first, torch.optim.AdamW):
            raise ValueError(
                "DeepSpeed shares out AdamW's state, and a part of this stage learns by Muon; set "
                "stage.parts.NAME.optimizer=adamw for each part, or take runtime=ddp"
            )
        return first

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {type(optimizer).__name__: optimizer.state_dict() for optimizer in self.optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with self.own_settings():
            for optimizer in self.optimizers:
                optimizer.load_state_dict(state[type(optimizer).__name__])

    @contextmanager
    def own_settings(self) -> Iterator[None]:
        """Around loading: rates, decay and betas stay the stage's own, whatever they were when the state was saved."""
        kept = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        yield
        for group, settings in zip(self.param_groups, kept, strict=True):
            group.update(settings)


def optimizers(root: nn.Module, parts: Mapping[str, Mapping[str, nn.Parameter]], stage: Stage) -> Optimizers:
    """AdamW, and Muon for the matrices of the parts that ask for it.

    Each part has its group, and one more for its vectors (norms, biases, scales), which weight decay is not meant for.
    Muon's updates are scaled to the size of AdamW's (its `match_rms_adamw`), so one learning rate serves both.
    """
    tables = {id(module.weight) for module in root.modules() if isinstance(module, nn.Embedding)}
    groups: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
    for name, named in parts.items():
        part = stage.parts[name]
        matrices = [p for p in named.values() if p.ndim == 2 and id(p) not in tables and part.optimizer == "muon"]
        taken = {id(p) for p in matrices}
        rest = [p for p in named.values() if id(p) not in taken]
        common = {"lr": part.learning_rate, "peak": part.learning_rate, "part": name}
        for kind, members, decay in (
            ("muon", matrices, stage.optimizer.weight_decay),
            ("adamw", [p for p in rest if p.ndim > 1], stage.optimizer.weight_decay),
            ("adamw", [p for p in rest if p.ndim <= 1], 0.0),
        ):
            if members:
                groups[kind].append({"params": members, "weight_decay": decay, **common})
    made: list[torch.optim.Optimizer] = []
    if groups["adamw"]:
        made.append(torch.optim.AdamW(groups["adamw"], betas=stage.optimizer.betas, fused=True))
    if groups["muon"]:
        made.append(torch.optim.Muon(groups["muon"], adjust_lr_fn="match_rms_adamw"))
    return Optimizers(*made)


def clip(parts: Mapping[str, Mapping[str, nn.Parameter]], max_norm: float) -> dict[str, Tensor]:
    """Scales all gradients down to a common norm of `max_norm`; the norms before that: TOTAL, and by part.

    A part that the step's batch did not touch has none.
    """
    gradients = {part: [p.grad for p in named.values() if p.grad is not None] for part, named in parts.items()}
    norms = {part: nn.utils.get_total_norm(grads) for part, grads in gradients.items() if grads}
    total = torch.stack(list(norms.values())).norm()
    nn.utils.clip_grads_with_norm_([p for named in parts.values() for p in named.values()], max_norm, total)
    return {TOTAL: total, **norms}


def rate_factor(settings: Optimizer, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step`: a linear rise, a plateau, a cosine down to `final_share`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    fall_from = max(settings.warmup_steps, settings.plateau_share * steps)
    if step < fall_from or steps <= fall_from:
        return 1.0
    progress = min(1.0, (step - fall_from) / (steps - fall_from))
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: Optimizers, settings: Optimizer, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(settings, step, steps)


class Averages:
    """Exponential moving averages of the parts that ask for them, in float32. Young averages follow faster.

    Of parameters that DeepSpeed has scattered (ZeRO-3), each process averages its own piece.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, nn.Parameter]], stage: Stage):
        self.decay = stage.optimizer.ema_decay
        asked = {name: p for part, named in parts.items() if stage.parts[part].ema for name, p in named.items()}
        self.live: dict[str, Tensor] = {name: getattr(p, "ds_tensor", p).detach() for name, p in asked.items()}
        self._scattered: list[Any] = [p for p in asked.values() if hasattr(p, "ds_tensor")]
        self.averaged = {name: p.float().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 0."""
        if self.live:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.averaged.values()), [p.float() for p in self.live.values()], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model carries the averages: for listening, validating and exporting."""
        kept = {name: p.clone() for name, p in self.live.items()}
        self._copy(self.averaged)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.live.items():
            parameter.copy_(values[name])
        for parameter in self._scattered:  # ZeRO-3 keeps small ones whole beside their pieces; make them anew
            parameter.partition()
