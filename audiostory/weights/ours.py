"""Our own model folders, in the layout of a diffusers pipeline: an index, and one folder per component.

    model_index.json        which component is of which class, and the settings the model is told with
    planner/ bridge/ dit/ codec/          config.json and safetensors
    planner/lora/                         the planner's LoRA, where it is kept apart (weights.lora)
    tokenizer/tokenizer.json              the planner's vocabulary
    text_encoder/                         only training needs it
    audio_encoder/ listener_projector/    of models that listen
    released.json                         what only the released layout has a place for (weights.convert)

Reading is strict: what is missing, damaged, misshaped or of another class is a ValueError that names the file. No
library's loader sees a configuration before its values are checked, and nothing stays mapped: a component may be
written over the folder that it was read from.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import diffusers
import torch
from torch import nn

from audiostory.model import solvers
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.listener import AudioEncoder, ListenerProjector
from audiostory.model.planner import Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import Layout, Vocabulary
from audiostory.weights import build, files, huggingface, lora
from audiostory.weights.keymap import KeyMap

INDEX = "model_index.json"
PIPELINE = "AudioStoryPipeline"
CLASSES: dict[str, type[nn.Module]] = {
    "planner": Planner,
    "bridge": Bridge,
    "dit": VelocityDiT,
    "codec": Codec,
    "text_encoder": TextEncoder,
    "audio_encoder": AudioEncoder,
    "listener_projector": ListenerProjector,
}
TELLING = ("planner", "bridge", "dit", "codec")  # what telling a story needs
LISTENING = ("audio_encoder", "listener_projector")  # and what hearing a recording needs besides

_LAYERS = {  # the arguments that count layers, and how those begin in the weights
    "dit": {
        "num_layers": "transformer.transformer_blocks.",
        "num_single_layers": "transformer.single_transformer_blocks.",
    },
    "codec": {"downsampling_ratios": "vae.encoder.block."},
}
_FILES = ("diffusion_pytorch_model.safetensors",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a model is told with unless the caller says otherwise.

    `lead_in` stands before every instruction, for a model that was trained so; `script` is the layout that it writes.
    `sounds` is for a model that knows a small world: each one's name and the words that call it in an instruction.
    `places` are names alone. Both are empty for a model of the open world. `solver` is one of `model.solvers`, and
    `steps` are its.
    """

    steps: int = 50
    guidance: float = 4.0
    crossfade_seconds: float = 3.0
    repetition_penalty: float = 1.0
    max_story_seconds: float = 600.0
    lead_in: str = ""
    script: Layout = Layout()  # noqa: RUF009  # frozen
    sounds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    places: Sequence[str] = ()
    solver: str = "euler"

    def __post_init__(self):
        solvers.check(self.solver)
        for name in ("steps", "guidance", "crossfade_seconds", "repetition_penalty", "max_story_seconds"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"the setting {name} must be a number, 0 or more; got {value!r}")
        if not isinstance(self.lead_in, str):
            raise ValueError(f"the setting lead_in is text, got {self.lead_in!r}")
        if not isinstance(self.sounds, Mapping):
            raise ValueError(f"the setting sounds maps each name to the words that call it; got {self.sounds!r}")

    def known_sounds(self, text: str) -> list[str]:
        """The sounds of the model's world that a text calls by name."""
        words = {word.strip(".,;:!?\"'()").lower() for word in text.split()}
        return [name for name, calls in self.sounds.items() if words & {name, *calls}]


def read_index(folder: str | Path) -> Settings:
    """The settings of a model folder, once its index is seen to describe one.

    The index names classes, as diffusers has it, but we only compare those names with our own table and never import
    what a file names: a downloaded folder must not choose the code that runs.
    """
    folder = Path(folder)
    index = _checked_index(folder)
    values = {key: value for key, value in index.items() if not key.startswith("_") and key not in CLASSES}
    known = [entry.name for entry in fields(Settings)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{folder / INDEX} sets {', '.join(unknown)}; known settings are {', '.join(known)}")
    try:
        return Settings(**{**values, "script": _layout(values.get("script", {}))})
    except ValueError as error:
        raise ValueError(f"{folder / INDEX}: {error}") from error


def read_names(folder: str | Path) -> tuple[str, ...]:
    """The components that a model folder's index names, by their names in CLASSES."""
    return tuple(name for name in CLASSES if name in _checked_index(Path(folder)))


def write_index(folder: str | Path, components: Mapping[str, nn.Module], settings: Settings) -> None:
    """Call it last: the index is what makes a folder a model."""
    classes = {name: [CLASSES[name].__module__, CLASSES[name].__name__] for name in components}
    index = {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__, **classes, **asdict(settings)}
    (Path(folder) / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_component(
    folder: str | Path, name: str, dtype: torch.dtype = torch.float32, *, keep_lora: bool = False
) -> Any:
    """One component of a model folder, by its name in CLASSES: in eval mode, on the CPU, in `dtype` whatever is stored.

    The text encoder is always float32: T5 overflows in half precision. A planner's LoRA that is stored apart is merged
    unless `keep_lora`, which asks for one that is.
    """
    part = Path(folder) / name
    if not (part / "config.json").is_file():
        raise ValueError(f"{part / 'config.json'} is missing, so there is no {name}; copy the model folder again")
    apart = name == "planner" and (part / lora.FOLDER).is_dir()
    if keep_lora and not apart:
        raise ValueError(f"{part} has no {lora.FOLDER}/: nothing was kept apart there; read it without keep_lora")
    if name == "planner" and (part / lora.CONFIG).exists():
        raise ValueError(
            f"{part / lora.CONFIG} is a LoRA beside the planner's own weights, which nothing here would apply; "
            f"put it into {lora.FOLDER}/, or remove it"
        )
    if apart:
        return lora.read_planner(part, dtype, keep_lora)
    if name == "planner":
        return huggingface.read_planner(part, dtype=dtype, names=lora.BASE_FILES)
    if name == "text_encoder":
        return huggingface.read_text_encoder(part, lora.BASE_FILES)
    if name == "audio_encoder":
        return huggingface.read_audio_encoder(part, dtype, lora.BASE_FILES)
    return _read_diffusers(part, name, dtype)


def read_arguments(part: Path, name: str) -> dict[str, Any]:
    """What config.json says of a component of one of our diffusers classes: its arguments, defaults included.

    ValueError for another class, for names that are no arguments, and for values that no network has.
    """
    cls, path = CLASSES[name], part / "config.json"
    said = files.read_json(path)
    if said.get("_class_name") != cls.__name__:
        raise ValueError(
            f"{path} describes a {files.short(said.get('_class_name'))}, expected {cls.__name__}; check the path"
        )
    given = {key: value for key, value in said.items() if not key.startswith("_")}  # those are diffusers' own notes
    known = {key: one.default for key, one in inspect.signature(cls.__init__).parameters.items() if key != "self"}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"{path} sets {files.short(unknown)}, which a {cls.__name__} does not have (it has {', '.join(known)}); "
            "copy the folder again"
        )
    if missing := [key for key, default in known.items() if default is inspect.Parameter.empty and key not in given]:
        raise ValueError(f"{path} does not set {', '.join(missing)}; copy the folder again")
    kinds = get_type_hints(cls.__init__)
    for key, value in given.items():
        _check_argument(path, key, value, kinds[key])
    return known | given


def read_vocabulary(folder: str | Path, *, num_semantic: int, num_residual: int) -> Vocabulary:
    """The planner's vocabulary. The counts come from the bridge, which cannot work with others."""
    path = Path(folder) / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model folder again")
    try:
        return Vocabulary.from_folder(path.parent, num_semantic=num_semantic, num_residual=num_residual)
    except Exception as error:  # tokenizers raises nothing more special for a damaged file
        raise ValueError(f"{path} cannot be read as a vocabulary: {error}; copy the model folder again") from error


def write_vocabulary(folder: str | Path, vocabulary: Vocabulary) -> None:
    path = Path(folder) / "tokenizer" / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.tokenizer.save(str(path))


def check_fit(
    planner: Planner,
    vocabulary: Vocabulary,
    bridge: Bridge,
    dit: VelocityDiT,
    codec: Codec,
    audio_encoder: AudioEncoder | None = None,
    listener_projector: ListenerProjector | None = None,
) -> None:
    """ValueError when the components are not of one model."""
    pairs = {
        "planner width and bridge": (planner.qwen.config.hidden_size, bridge.config["planner_width"]),
        "bridge width and DiT": (bridge.config["condition_width"], dit.config["joint_attention_dim"]),
        "DiT channels and codec": (dit.config["in_channels"], codec.config["latent_channels"]),
        "latent frames per second of DiT and codec": (round(dit.frame_rate, 3), round(codec.frame_rate, 3)),
        "semantic tokens of vocabulary and bridge": (len(vocabulary.semantic_ids), bridge.num_semantic),
        "residual tokens of vocabulary and bridge": (len(vocabulary.residual_ids), bridge.num_residual),
    }
    if listener_projector is not None:
        heard = listener_projector.config
        pairs["planner width and listener"] = (planner.qwen.config.hidden_size, heard["planner_width"])
        if audio_encoder is not None:
            pairs["audio encoder width and listener"] = (audio_encoder.width, heard["audio_width"])
    wrong = [f"{what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other]
    if wrong:
        raise ValueError(f"the components are not of one model ({'; '.join(wrong)}); take all from the same folder")


def _checked_index(folder: Path) -> dict[str, Any]:
    """An index that names our classes and no others."""
    if not folder.is_dir():
        raise ValueError(f"no model folder at {folder}; check the path")
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} is not an AudioStory model folder: {INDEX} is missing{_what_else(folder)}")
    index = files.read_json(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise ValueError(
            f"{folder / INDEX} describes a {index.get('_class_name')}, expected {PIPELINE}; check the path"
        )
    for name, cls in CLASSES.items():
        expected = [cls.__module__, cls.__name__]
        if (name in TELLING or name in index) and index.get(name) != expected:
            raise ValueError(
                f"{folder / INDEX}: {name} is {index.get(name)}, expected {expected}; other classes are never loaded"
            )
    return index


def _layout(said: object) -> Layout:
    known = [entry.name for entry in fields(Layout)]
    if not isinstance(said, Mapping) or set(said) - set(known) or not all(isinstance(v, bool) for v in said.values()):
        raise ValueError(f"the setting script is {files.short(said)}, expected true or false for {', '.join(known)}")
    return Layout(**said)


def _read_diffusers(part: Path, name: str, dtype: torch.dtype) -> Any:
    cls: Any = CLASSES[name]
    tensors = files.open_weights(part, _FILES)
    arguments = read_arguments(part, name)
    for argument, prefix in _LAYERS.get(name, {}).items():
        value = arguments[argument]
        build.check_layers(value if isinstance(value, int) else len(value), tensors.shapes, prefix, part)
    model = build.on_meta(lambda: cls(**arguments), part / "config.json")
    source = build.Source(KeyMap([("{rest}", "{rest}")]), tensors, build.shapes_of(model), part, copied=True)
    return build.fill(model, source, dtype)


def _check_argument(path: Path, name: str, value: object, kind: Any) -> None:
    """By the argument's annotation."""
    if kind in (bool, str):
        if not isinstance(value, kind):
            expected = "true or false" if kind is bool else "text"
            raise ValueError(f"{path}: {name} is {files.short(value)}, expected {expected}; copy the folder again")
    elif get_origin(kind) is Sequence:
        files.check_sizes(path, name, value)
    elif value is not None or type(None) not in get_args(kind):
        files.check_size(path, name, value, whole=kind is not float)


def _what_else(folder: Path) -> str:
    if (folder / "pytorch_model.bin").is_file() or (folder / "config.yaml").is_file():
        return (
            ". It looks like a checkpoint in the released system's layout: read it with "
            "AudioStoryPipeline.from_released (commands: --tangoflux_model), or convert it "
            "with scripts/convert_weights.py"
        )
    return "; give a folder that AudioStoryPipeline.save_pretrained wrote"
