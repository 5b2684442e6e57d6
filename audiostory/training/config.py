"""The configuration of a training run, as `audiostory/composing.py` makes it of the yaml files and the command line.
No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audiostory import composing
from audiostory.story import Layout
from audiostory.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of every part, as keyword arguments of the classes in `audiostory/model/`, which check them."""

    name: str
    tokenizers: str  # what scripts/make_tokenizer.py wrote, under the folder of runs
    num_semantic: int
    num_residual: int
    planner: Mapping[str, Any]
    lora: Mapping[str, Any]
    bridge: Mapping[str, Any]
    dit: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    codec: Mapping[str, Any]
    audio_encoder: Mapping[str, Any] = field(default_factory=dict)
    listener_projector: Mapping[str, Any] = field(default_factory=dict)
    flow: Mapping[str, Any] = field(default_factory=dict)  # conditioning dropout, how sigma is drawn
    settings: Mapping[str, Any] = field(default_factory=dict)  # what an exported model is told with
    script: Layout = Layout()  # noqa: RUF009  # of what the planner writes, here and where the exported model tells


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """One data set: a manifest to learn from, one to validate on, and what `scripts/encode_latents.py` made of each."""

    train: str
    val: str | None = None
    train_latents: str | None = None
    val_latents: str | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    name: str
    sources: Mapping[str, SourceFiles]
    folder: str = "corpora"  # where they lie
    damaged_share: float = 0.01  # rows or recordings that may be left out


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where the steps happen, and on how many processes. It decides how a step's batch is cut, never what is in it."""

    device: str = "cpu"  # auto: a GPU where there is one
    processes: Literal["one", "ddp", "deepspeed"] = "one"
    micro_batches: int | None = None  # pieces that a step's batch is cut into, over all processes; null: one for each
    deepspeed: Mapping[str, Any] = field(default_factory=dict)  # DeepSpeed's own configuration
    autocast: Literal["bfloat16", "none"] = "bfloat16"
    frozen: Literal["float32", "bfloat16"] = "float32"  # what parameters that rest are kept in
    gradient_checkpointing: bool = False  # a third more computing, for much less memory
    threads: int | None = None
    workers: int = 0  # processes that read ahead; 0 reads in the loop, best on two cores
    compile: bool = False  # the networks' blocks: minutes at the start, faster steps from then on
    attention: Literal["sdpa", "eager"] = "sdpa"  # torch's fused kernel, or its parts; on a CPU these are the faster
    skip_not_finite: int = 0  # steps with a loss or gradient that is not finite to leave out before stopping
    minutes: float | None = None  # save and stop after so long; the same command goes on

    @property
    def zero_stage(self) -> int:
        return self.deepspeed.get("zero_optimization", {}).get("stage", 0)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a component comes from when `stage.start_from` does not have it: a run's name, a folder, or null: fresh.

    A folder may be ours, Qwen2.5's, Flan-T5's, Whisper's, TangoFlux's or the released checkpoint's; its files tell.
    """

    name: str = "random"
    planner: str | None = None
    bridge: str | None = None
    dit: str | None = None
    codec: str | None = None
    text_encoder: str | None = None
    audio_encoder: str | None = None
    listener_projector: str | None = None
    tangoflux: str | None = None  # beside the released checkpoint: the folder of its VAE and the DiT's sizes


@dataclass(frozen=True, kw_only=True)
class Logger:
    """Where a run is watched, beside the console and `log.jsonl`. wandb's key comes from the environment."""

    kind: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    project: str = "audiostory"
    mode: Literal["online", "offline"] = "offline"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All there is to know about one run of `train.py`."""

    stage: Stage
    model: ModelSizes
    data: Data
    weights: Weights = Weights()
    runtime: Runtime = Runtime()
    logger: Logger = Logger()
    runs: str = "runs"  # the folder whose subfolders `stage.start_from` and `weights` name
    output: str = "runs/unnamed"
    seed: int = 0
    resume: bool = True
    accept_changes: bool = False  # go on in an output whose earlier run had another configuration


def compose(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """`folder`/train.yaml with the command line's overrides, as plain data. ValueError for what is misspelt."""
    return composing.compose(folder, "train", RunConfig, overrides)
