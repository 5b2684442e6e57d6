"""A stage of training as data: what learns, what it learns from, for how long, and where it starts.

The values stand in `configs/stage/`, one file per stage; here are their names, types and the one rule that is more than
data: which parameters a stage opens. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from audiostory.dataset.mixture import BatchLimits


@dataclass(frozen=True, kw_only=True)
class Part:
    """Parameters that learn together. `learns` are shell patterns on parameter names, such as "bridge.*"."""

    learns: tuple[str, ...]
    learning_rate: float
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon is for matrices; embeddings and vectors stay with AdamW
    ema: bool = False  # keep an exponential moving average of these; it is what is exported and listened to


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, and its learning rate: a linear rise, a plateau, then a cosine down to `final_share` of the peak."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    plateau_share: float = 0.0  # of all steps; 0 lets the cosine begin right after the rise
    final_share: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often, in steps, things happen beside the steps. 0 means never."""

    log: int = 10
    save: int = 500
    keep: int = 2  # checkpoints that stay
    validate: int = 500
    validate_batches: int = 8
    listen: int = 1000
    listen_items: int = 6


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. Everything that differs between stages is here; the loop knows none of their names."""

    name: str
    teaches: str
    root: Literal["codec", "text_to_audio", "hearing", "audiostory"]
    parts: Mapping[str, Part]
    losses: Mapping[str, float]  # weights by name; a loss that is not named is not computed towards the step
    mixture: Mapping[str, float]  # shares of the data's sources by name
    steps: int
    start_from: str | None = None  # the stage before: a run's name, or a model's folder. What it lacks, `weights` has
    lora: bool = False  # give the planner fresh adapters; they are merged into it when the stage is exported
    optimizer: Optimizer = Optimizer()
    batch: BatchLimits = BatchLimits()  # noqa: RUF009  # frozen
    pace: Pace = Pace()


def choose(stage: Stage, names: Iterable[str]) -> dict[str, list[str]]:
    """The parameters that each part of a stage opens: {part: [name, ...]}; what no part names rests.

    Raises ValueError for a pattern that matches nothing and for a parameter that two parts claim, since both mean
    that the stage does something else than it says.
    """
    names = list(names)
    chosen: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for part_name, part in stage.parts.items():
        matched: dict[str, None] = {}
        for pattern in part.learns:
            hits = [name for name in names if fnmatchcase(name, pattern)]
            if not hits:
                groups = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
                raise ValueError(
                    f"stage {stage.name}: the pattern {pattern!r} of part {part_name!r} matches no parameter; "
                    f"the model's parameters begin with {groups}"
                )
            matched.update(dict.fromkeys(hits))
        for name in matched:
            if owner.setdefault(name, part_name) != part_name:
                raise ValueError(f"stage {stage.name}: the parts {owner[name]!r} and {part_name!r} both learn {name}")
        chosen[part_name] = list(matched)
    return chosen
