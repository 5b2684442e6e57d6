"""The released AudioStory checkpoint: config.yaml and pytorch_model.bin, with the folders it names beside it (SPEC 2).

    ckpt/audiostory-3B/          config.yaml  pytorch_model.bin     planner, bridge, DiT and text encoder in one file
    ckpt/Flux_detokenizer/       config.json  model.safetensors     the DiT's sizes, the VAE
    ckpt/Qwen2.5-3B-Instruct/    config.json  generation_config.json  tokenizer.json     (weights are not read)
    ckpt/flan-t5-large/          config.json  tokenizer.json                             (weights are not read)

config.yaml names classes to import and functions to call; we only read its values. What it leaves open is an error and
never a guess, since a wrong scale or token count gives sound that is merely bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.listener import ListenerProjector
from audiostory.model.planner import LORA_LEARNT_WHOLE, LORA_TARGETS, LoraSettings, Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import Vocabulary
from audiostory.story.prompts import RELEASED_LEAD_IN
from audiostory.story.vocabulary import SPECIAL_TOKENS, add_special_tokens
from audiostory.weights import build, files, huggingface, tangoflux
from audiostory.weights.keymap import KeyMap, Report
from audiostory.weights.ours import Settings

WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors")
CONDITION_WIDTH, FUSER_HEADS = 1024, 8  # fixed in the release's code
MOST_TOKENS = 500

_LLM = "seedx.llm.base_model.model."
RELEASED = KeyMap(
    [
        (_LLM + "{norm}norm.modules_to_save.default.weight", "planner/lora/base_model.model.{norm}norm.weight"),
        (_LLM + "{norm}norm.original_module.weight", "planner/{norm}norm.weight"),
        (_LLM + "{layer}.lora_{half}.default.weight", "planner/lora/base_model.model.{layer}.lora_{half}.weight"),
        (_LLM + "{rest}", "planner/{rest}"),
        ("seedx.projector.{rest}", "bridge/semantic_projector.{rest}"),
        ("seedx.audio_projector.{rest}", "bridge/residual_projector.{rest}"),
        ("multihead_attention.{rest}", "bridge/fuser.{rest}"),
        ("seedx.whisper_resampler_llava.aud_projector.{rest}", "listener_projector/projector.{rest}"),
    ],
    aliases={_LLM + "lm_head.weight": _LLM + "model.embed_tokens.weight"},
    ignored=["seedx.input_resampler.{rest}", "seedx.output_resampler.{rest}"],  # no forward path calls them (SPEC 1)
    spellings={".base_layer.": "."},  # what current peft puts into the names (SPEC 2)
) + (tangoflux.DIT + tangoflux.TEXT_ENCODER).under("tangoflux.")


@dataclass(frozen=True, kw_only=True)
class ReleasedConfig:
    """What is read from config.yaml; the folders are still as it names them."""

    num_semantic: int
    num_residual: int
    feature_scale: float
    planner_width: int
    num_tokens: int
    lora: LoraSettings
    language_model: str
    added_tokens: str
    listener: Mapping[str, int] | None
    loss_weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Released:
    """A released checkpoint as our parts, in eval mode on the CPU; `reports` has one per weight file."""

    planner: Planner
    vocabulary: Vocabulary
    bridge: Bridge
    dit: VelocityDiT
    codec: Codec
    listener_projector: ListenerProjector | None
    text_encoder: TextEncoder | None
    settings: Settings
    config: ReleasedConfig
    reports: Mapping[str, Report]


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where everything lies. What is None is looked for beside `model`, under the name that its files give."""

    model: Path
    tangoflux: Path
    language_model: Path | None = None
    text_encoder: Path | None = None
    llm_config: Path | None = None  # stands in for an llm_model that config.yaml leaves open

    def find(self, config: ReleasedConfig, flux: tangoflux.TangoFluxConfig) -> tuple[Path, Path]:
        """The folders of Qwen2.5 and of Flan-T5."""
        return (
            self.language_model or tangoflux.beside(self.model, config.language_model, "language model"),
            self.text_encoder or tangoflux.beside(self.tangoflux, flux.text_encoder_name, "text encoder"),
        )


@dataclass(frozen=True, kw_only=True)
class Empty:
    """The networks of a released checkpoint without memory, and where their tensors come from."""

    planner: Planner
    bridge: Bridge
    dit: VelocityDiT
    text_encoder: Any
    listener_projector: ListenerProjector | None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the checkpoint must hold, by our names; `planner` must have its LoRA apart."""
        parts: dict[str, nn.Module | None] = {
            "bridge": self.bridge,
            "dit": self.dit,
            "listener_projector": self.listener_projector,
        }
        shapes = {f"planner/{name}": shape for name, shape in build.planner_shapes(self.planner).items()}
        shapes |= build.text_encoder_shapes(self.text_encoder, "text_encoder/")
        for name, part in parts.items():
            shapes |= build.shapes_of(part, f"{name}/") if part is not None else {}
        del shapes["bridge/unconditional"]  # computed by the text encoder
        return shapes


def looks_released(folder: str | Path) -> bool:
    return (Path(folder) / "config.yaml").is_file()


def read(
    folders: Folders, dtype: torch.dtype = torch.float32, *, keep_lora: bool = False, text_encoder: bool = False
) -> Released:
    """The whole checkpoint. LoRA is merged unless `keep_lora`; the text encoder is let go, once the unconditional
    tokens of guidance are computed, unless `text_encoder`.

    ValueError, naming file, key and what to do, for anything that is not as SPEC 2 says.
    """
    config, flux = read_config(folders.model, folders.llm_config), tangoflux.read_config(folders.tangoflux)
    qwen_folder, t5_folder = folders.find(config, flux)
    vocabulary = read_vocabulary(qwen_folder, folders.model, config)
    tensors = files.open_weights(folders.model, WEIGHT_FILES)
    empty = build_empty(
        config,
        flux,
        tangoflux.read_vae_config(folders.tangoflux),
        huggingface.qwen_config(qwen_folder),
        huggingface.t5_config(t5_folder),
        tensors.shapes,
        folders.model,
    )
    source = build.Source(RELEASED, tensors, empty.shapes(), folders.model)
    encoder = build.fill_text_encoder(
        empty.text_encoder, source.under("text_encoder/"), huggingface.read_tokenizer(t5_folder)
    )
    codec, codec_report = tangoflux.read_codec(folders.tangoflux, dtype)
    return Released(
        planner=_planner(empty.planner, source, config.lora, dtype, keep_lora),
        vocabulary=vocabulary,
        bridge=_bridge(empty.bridge, source, encoder, dtype),
        dit=tangoflux.fill_dit(empty.dit, source.under("dit/"), dtype),
        codec=codec,
        listener_projector=_filled(empty.listener_projector, source.under("listener_projector/"), dtype),
        text_encoder=encoder if text_encoder else None,
        settings=Settings(repetition_penalty=huggingface.repetition_penalty(qwen_folder), lead_in=RELEASED_LEAD_IN),
        config=config,
        reports={str(folders.model): source.report, str(folders.tangoflux): codec_report},
    )


def build_empty(
    config: ReleasedConfig,
    flux: tangoflux.TangoFluxConfig,
    vae: tangoflux.VaeConfig,
    qwen: Any,
    t5: Any,
    shapes: build.Shapes,
    origin: object,
) -> Empty:
    """The networks on the meta device, LoRA apart; `shapes` are the checkpoint's, by its own names."""
    qwen.vocab_size = config.num_tokens
    if qwen.hidden_size != config.planner_width:
        raise ValueError(
            f"{origin}: config.yaml says model_dims {config.planner_width}, the language model is "
            f"{qwen.hidden_size} wide; give the folder of the language model it was trained from"
        )
    widths = {"TangoFlux's joint_attention_dim": flux.joint_attention_dim, "the text encoder's d_model": t5.d_model}
    if wrong := [f"{what} is {width}" for what, width in widths.items() if width != CONDITION_WIDTH]:
        raise ValueError(f"{origin}: {' and '.join(wrong)}, the release's bridge is {CONDITION_WIDTH} wide")
    bridge = build.on_meta(
        lambda: Bridge(
            planner_width=config.planner_width,
            condition_width=CONDITION_WIDTH,
            num_semantic=config.num_semantic,
            num_residual=config.num_residual,
            feature_scale=config.feature_scale,
            num_heads=FUSER_HEADS,
        ),
        origin,
    )
    return Empty(
        planner=build.empty_planner(qwen, shapes, _LLM + "model.", origin, config.lora),
        bridge=bridge,
        dit=tangoflux.empty_dit(flux, vae, shapes, "tangoflux.", origin),
        text_encoder=build.empty_text_encoder(t5, shapes, "tangoflux.text_encoder.", origin),
        listener_projector=build.on_meta(lambda: ListenerProjector(**sizes), origin)
        if (sizes := config.listener)
        else None,
    )


def read_config(folder: Path, llm_config: Path | None = None) -> ReleasedConfig:
    """The values of config.yaml that matter. ValueError for what is absent or of another kind.

    An `llm_model` of null is what the release then takes from its shipped configs/audiostory_llm_qwen25_3b_lora.yaml:
    `llm_config` if given, else that file's values (SPEC 2). The tensors' shapes confirm the rank, not alpha.
    An `llm_model` that is there wins over `llm_config`.
    """
    yaml = _Yaml(folder / "config.yaml")
    llm = yaml.below("llm_model") or (_Yaml(llm_config) if llm_config else None)
    shipped = llm is None
    width = yaml.whole("agent_model.model_dims")
    tokenizer_folder = yaml.text("tokenizer.pretrained_model_path")
    listener = yaml.below("agent_model.whisper_resampler_llava")
    _expect(yaml.get("seedx_dit_model_cfg.rec_loss_type", "mse"), "mse", f"{yaml.path}: rec_loss_type")
    return ReleasedConfig(
        num_semantic=yaml.whole("train_dataset.datapipes.0.num_t5_out_tokens", MOST_TOKENS),
        num_residual=yaml.whole("train_dataset.datapipes.0.num_aud_out_tokens", MOST_TOKENS),
        feature_scale=yaml.number("agent_model.t5_feature_scale"),
        planner_width=width,
        num_tokens=152277 if shipped else llm.whole("vocab_size"),
        lora=LoraSettings() if shipped else _lora(llm),
        language_model=tokenizer_folder if shipped else llm.text("model.pretrained_model_name_or_path"),
        added_tokens=yaml.text("tokenizer.add_tokens_path"),
        listener=None if listener is None else _listener(listener, width),
        loss_weights={
            "text": yaml.number("seedx_dit_model_cfg.lm_loss_scale", 1.0),
            "semantic": yaml.number("seedx_dit_model_cfg.rec_loss_scale", 1.0),
            "flow": yaml.number("seedx_dit_model_cfg.dit_loss_scale", 1.0),
        },
    )


def read_vocabulary(language_model: Path, model: Path, config: ReleasedConfig) -> Vocabulary:
    """Qwen's tokenizer with the release's tokens appended in the order of added_tokens.json (SPEC 3).

    The ids inside that file are wrong and collide; only the order of its names counts. ValueError unless every name
    gets the id that follows from its place, and all fill the planner's table.
    """
    tokenizer = huggingface.read_tokenizer(language_model)
    path = tangoflux.beside(model, config.added_tokens, "list of added tokens")
    names = list(files.read_json(path))
    base = tokenizer.get_vocab_size(with_added_tokens=True)
    try:
        add_special_tokens(tokenizer, names)
        vocabulary = Vocabulary(tokenizer, num_semantic=config.num_semantic, num_residual=config.num_residual)
    except ValueError as error:
        raise ValueError(
            f"{path}, with the tokenizer of {language_model} and the counts of config.yaml: {error}"
        ) from error
    if strange := [name for index, name in enumerate(names) if tokenizer.token_to_id(name) != base + index]:
        raise ValueError(
            f"{path}: {files.short(strange[0])} did not get the id of its place; use the tokenizer of Qwen2.5"
        )
    if base + len(names) != config.num_tokens:
        raise ValueError(
            f"{language_model} has {base} tokens and {path} adds {len(names)}, but the planner's table has "
            f"{config.num_tokens} rows; check that they belong together"
        )
    if len(names) == len(SPECIAL_TOKENS) and tuple(names) != SPECIAL_TOKENS:
        raise ValueError(f"{path} has the released names in another order, so ids would be swapped; fetch it again")
    return vocabulary


def _planner(empty: Planner, source: build.Source, lora: LoraSettings, dtype: torch.dtype, keep_lora: bool) -> Planner:
    read_tensor = source.under("planner/")
    if keep_lora:
        return build.fill_planner(empty, read_tensor, dtype)
    names = build.planner_shapes(empty)
    plain = build.on_meta(lambda: Planner(type(empty.qwen)(empty.qwen.config)), source.origin)
    return build.fill_planner(plain, build.merging(read_tensor, names, lora), dtype)


def _bridge(bridge: Bridge, source: build.Source, encoder: TextEncoder, dtype: torch.dtype) -> Bridge:
    state = {name: source(f"bridge/{name}", dtype) for name in bridge.state_dict() if name != "unconditional"}
    state["unconditional"] = encoder.unconditional(bridge.num_semantic).to(dtype)
    bridge.load_state_dict(state, strict=True, assign=True)
    return bridge.eval()


def _filled(part: Any, read_tensor: Any, dtype: torch.dtype) -> Any:
    if part is not None:
        part.load_state_dict({n: read_tensor(n, dtype) for n in part.state_dict()}, strict=True, assign=True)
        part.eval()
    return part


def _lora(llm: _Yaml) -> LoraSettings:
    for name, wanted in (("target_modules", LORA_TARGETS), ("modules_to_save", LORA_LEARNT_WHOLE)):
        given = llm.get(f"peft_config.{name}")
        _expect(sorted(map(str, given)) if isinstance(given, list) else given, sorted(wanted), f"{llm.path}: {name}")
    return LoraSettings(
        rank=llm.whole("peft_config.r"),
        alpha=llm.whole("peft_config.lora_alpha"),
        dropout=llm.number("peft_config.lora_dropout", 0.0, least=0.0),
    )


def _listener(listener: _Yaml, planner_width: int) -> dict[str, int]:
    _expect(
        listener.whole("tgt_embed_dim"), planner_width, f"{listener.path}: tgt_embed_dim of whisper_resampler_llava"
    )
    return {
        "audio_width": listener.whole("ori_embed_dim"),
        "planner_width": planner_width,
        "num_tokens": listener.whole("token_num", MOST_TOKENS * 3),
    }


class _Yaml:
    """Values of a YAML file by dotted path ("datapipes.0.name"), each of the kind that is asked for."""

    def __init__(self, path: Path, content: Any = None, above: str = ""):
        self.path, self._above = path, above
        self._content: Any = files.read_yaml(path) if content is None else content

    def get(self, name: str, *default: Any) -> Any:
        value = self._content
        for step in name.split("."):
            try:
                value = value[int(step)] if isinstance(value, list) else value[step]
            except (KeyError, IndexError, TypeError, ValueError):
                if default:
                    return default[0]
                raise ValueError(
                    f"{self.path} lacks {self._above}{name}, which is never guessed; write it as the checkpoint was "
                    "trained"
                ) from None
            if _is_reference(value):
                raise ValueError(
                    f"{self.path}: {self._above}{name} refers to {files.short(value)}, and references are not "
                    "resolved; write the value itself"
                )
        return value

    def below(self, name: str) -> _Yaml | None:
        """A part of the file; None where it is null or absent."""
        value = self.get(name, None)
        return None if value is None else _Yaml(self.path, value, f"{self._above}{name}.")

    def whole(self, name: str, most: int = files.WIDEST) -> int:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self._strange(name, value, f"a whole number from 1 to {most}")
        return value

    def number(self, name: str, *default: float, least: float = 1e-6) -> float:
        value = self.get(name, *default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= files.WIDEST:
            raise self._strange(name, value, f"a number from {least:g} to {files.WIDEST}")
        return float(value)

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self._strange(name, value, "a name")
        return value

    def _strange(self, name: str, value: Any, expected: str) -> ValueError:
        return ValueError(
            f"{self.path}: {self._above}{name} is {files.short(value)}, expected {expected}; write it as the "
            "checkpoint was trained"
        )


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and "${" in value


def _expect(value: Any, wanted: Any, what: str) -> None:
    if value != wanted:
        raise ValueError(
            f"{what} is {files.short(value)}, only {wanted!r} is known; with another the weights mean something else, "
            "so fetch the released ones"
        )
