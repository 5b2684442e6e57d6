"""The composed configuration: Hydra puts the yaml files and the command line together, here it becomes dataclasses.

Defaults stand in the dataclasses alone; Hydra is shown them first, so every key can be overridden and a misspelt one
fails at once, on the command line as in a yaml file, with the nearest name there is. No torch here.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from audiostory.story import Layout
from audiostory.training.stages import Stage

T = TypeVar("T")


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
    attention: Literal["sdpa", "eager"] = "sdpa"  # the planner's; compiled on a CPU, eager is the faster one
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
    """Hydra's composition of `folder`/train.yaml with the command line's overrides, as plain data.

    Raises ValueError with a readable message for a misspelt key, an unknown option or an override that is no override.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="defaults", node=_defaults(RunConfig))
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            config = hydra_compose("train", list(overrides))
            return typing.cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_readable(error)) from error


def as_yaml(composed: Mapping[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(composed)))


def build(cls: type[T], data: Any, where: str = "") -> T:
    """A dataclass from plain data, checked all the way down. Raises ValueError naming the key that is wrong.

    Null takes an entry out of a group of named things, such as a loss or a part: a yaml file that is laid over another
    has no other way to.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the configuration'} must be a group of settings, not {data!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in data:
        if key not in known:
            raise ValueError(unknown_key(f"{prefix}{key}", str(key), known))
    absent = [
        name for name, f in known.items() if name not in data and f.default is MISSING and f.default_factory is MISSING
    ]
    if absent:
        raise ValueError(
            f"no value for {', '.join(prefix + name for name in absent)}; set it in the yaml or on the command line"
        )
    hints = typing.get_type_hints(cls)
    return cls(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in data.items()})


def unknown_key(full_key: str, key: str, known: Any) -> str:
    """What to say of a setting that does not exist, with the nearest name that does."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(key, names, n=1)
    return f"there is no setting {full_key}; " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    )


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, a container of such, or a plain type; integers pass for floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if arguments[-1] is not ... and len(value) != len(arguments):
            raise ValueError(f"{where} needs {len(arguments)} values, not {value!r}")
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(typing.cast(type, origin), Mapping) and isinstance(value, Mapping):
        taken_out = [] if arguments[1] is Any else [key for key, item in value.items() if item is None]
        kept = {key: item for key, item in value.items() if key not in taken_out}
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in kept.items()}
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    wanted = " or ".join(map(str, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where} must be {wanted}, not {value!r}")


def _defaults(cls: type) -> dict[str, Any]:
    """Every default of a dataclass and of the dataclasses in it, as plain data; what has no default is left out."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        declared = next(f for f in fields(cls) if f.name == name)
        if is_dataclass(hint):
            found[name] = _defaults(typing.cast(type, hint))
        elif declared.default is not MISSING:
            found[name] = list(declared.default) if isinstance(declared.default, tuple) else declared.default
        elif declared.default_factory is not MISSING:
            found[name] = declared.default_factory()
    return found


def _readable(error: Exception) -> str:
    """Hydra's message, or for a misspelt key one that names the nearest."""
    cause = error.__cause__
    key, parent = getattr(cause, "key", None), getattr(cause, "parent_node", None)
    if key is not None and parent is not None and "is not in struct" in str(cause):
        return unknown_key(str(getattr(cause, "full_key", key)), str(key), parent)
    return str(error).split("Config search path:")[0].strip()
