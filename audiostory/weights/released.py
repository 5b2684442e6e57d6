"""The released AudioStory checkpoint: config.yaml and pytorch_model.bin, with the folders it names beside it (SPEC 2).

    ckpt/audiostory-3B/          config.yaml  pytorch_model.bin     planner, bridge, DiT and text encoder in one file
    ckpt/Flux_detokenizer/       config.json  model.safetensors     the DiT's sizes, the VAE
    ckpt/Qwen2.5-3B-Instruct/    config.json  generation_config.json  tokenizer.json     (weights are not read)
    ckpt/flan-t5-large/          config.json  tokenizer.json                             (weights are not read)

`read` gives our parts; `open_checkpoint`, its first half, gives the networks without memory and where their tensors
come from, which is what a conversion needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from tqdm.auto import tqdm

from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.listener import ListenerProjector
from audiostory.model.planner import Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import Vocabulary
from audiostory.story.prompts import RELEASED_LEAD_IN
from audiostory.story.vocabulary import SPECIAL_TOKENS, add_special_tokens
from audiostory.weights import build, files, huggingface, tangoflux
from audiostory.weights.keymap import KeyMap, Report
from audiostory.weights.ours import Settings
from audiostory.weights.released_config import ReleasedConfig, read_config

WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors")
CONDITION_WIDTH, FUSER_HEADS = 1024, 8  # fixed in the release's code

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
    added_tokens: Path | None = None
    llm_config: Path | None = None  # stands in for an llm_model that config.yaml leaves open

    @classmethod
    def of(cls, model: str | Path, tangoflux: str | Path | None = None, **elsewhere: str | Path | None) -> Folders:
        """`tangoflux` is Flux_detokenizer beside `model` unless given."""
        flux = Path(tangoflux) if tangoflux else Path(model).absolute().parent / "Flux_detokenizer"
        return cls(model=Path(model), tangoflux=flux, **{name: Path(path) for name, path in elsewhere.items() if path})

    def find(self, config: ReleasedConfig, flux: tangoflux.TangoFluxConfig) -> tuple[Path, Path, Path]:
        """The folders of Qwen2.5, of its tokenizer, which config.yaml names apart, and of Flan-T5."""
        return (
            self.language_model or tangoflux.beside(self.model, config.language_model, "language model"),
            self.language_model or tangoflux.beside(self.model, config.tokenizer, "tokenizer"),
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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A released checkpoint, open: what its configurations say, its networks without memory, and their tensors."""

    config: ReleasedConfig
    flux: tangoflux.TangoFluxConfig
    vocabulary: Vocabulary
    repetition_penalty: float
    text_tokenizer: Tokenizer
    empty: Empty
    codec: Codec
    source: build.Source
    vae_source: build.Source

    @property
    def settings(self) -> Settings:
        return Settings(repetition_penalty=self.repetition_penalty, lead_in=RELEASED_LEAD_IN)

    @property
    def reports(self) -> dict[str, Report]:
        return {str(source.origin): source.report for source in (self.source, self.vae_source)}


def looks_released(folder: str | Path) -> bool:
    return (Path(folder) / "config.yaml").is_file()


def open_checkpoint(folders: Folders, progress: bool = True) -> Checkpoint:
    """ValueError, naming file, key and what to do, for anything that is not as SPEC 2 says; no tensor is read."""
    config, flux = read_config(folders.model, folders.llm_config), tangoflux.read_config(folders.tangoflux)
    qwen_folder, tokenizer_folder, t5_folder = folders.find(config, flux)
    added_tokens = folders.added_tokens or tangoflux.beside(folders.model, config.added_tokens, "list of added tokens")
    vocabulary = read_vocabulary(tokenizer_folder, added_tokens, config)
    qwen, t5 = huggingface.qwen_config(qwen_folder), huggingface.t5_config(t5_folder)
    vae = tangoflux.read_vae_config(folders.tangoflux)
    tensors = files.open_weights(folders.model, WEIGHT_FILES, progress)
    empty = build_empty(config, flux, vae, qwen, t5, tensors.shapes, folders.model)
    source = build.Source(RELEASED, tensors, empty.shapes(), folders.model)
    codec, vae_source = tangoflux.open_codec(folders.tangoflux)
    return Checkpoint(
        config=config,
        flux=flux,
        vocabulary=vocabulary,
        repetition_penalty=huggingface.repetition_penalty(qwen_folder),
        text_tokenizer=huggingface.read_tokenizer(t5_folder),
        empty=empty,
        codec=codec,
        source=source,
        vae_source=vae_source,
    )


def read(
    folders: Folders,
    dtype: torch.dtype = torch.float32,
    *,
    keep_lora: bool = False,
    text_encoder: bool = False,
    progress: bool = True,
) -> Released:
    """The whole checkpoint. LoRA is merged unless `keep_lora`; the text encoder is let go, once the unconditional
    tokens of guidance are computed, unless `text_encoder`. ValueError as `open_checkpoint` raises it.
    """
    checkpoint = open_checkpoint(folders, progress)
    empty, source, config = checkpoint.empty, checkpoint.source, checkpoint.config
    with tqdm(
        total=source.tensors.num_bytes, desc="reading", unit="B", unit_scale=True, delay=1, disable=not progress
    ) as bar:
        source.on_read = bar.update
        encoder = build.fill_text_encoder(empty.text_encoder, source.under("text_encoder/"), checkpoint.text_tokenizer)
        planner = build.fill_planner_with_lora(empty.planner, source.under("planner/"), config.lora, dtype, keep_lora)
        unconditional = encoder.unconditional(config.num_semantic).to(dtype)
        listener = empty.listener_projector
        if listener is not None:
            build.fill(listener, source.under("listener_projector/"), dtype)
        return Released(
            planner=planner,
            vocabulary=checkpoint.vocabulary,
            bridge=build.fill(empty.bridge, source.under("bridge/"), dtype, unconditional=unconditional),
            dit=build.fill(empty.dit, source.under("dit/"), dtype),
            codec=tangoflux.fill_codec(checkpoint.codec, checkpoint.vae_source, dtype),
            listener_projector=listener,
            text_encoder=encoder if text_encoder else None,
            settings=checkpoint.settings,
            config=config,
            reports=checkpoint.reports,
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


def read_vocabulary(base: Path, path: Path, config: ReleasedConfig) -> Vocabulary:
    """The tokenizer of the folder `base` with the tokens that `path` lists appended in their order (SPEC 3).

    The ids inside that file are wrong and collide; only the order of its names counts. ValueError unless every name
    gets the id that follows from its place, and all fill the planner's table.
    """
    tokenizer = huggingface.read_tokenizer(base)
    names = list(files.read_json(path))
    num_base = tokenizer.get_vocab_size(with_added_tokens=True)
    try:
        add_special_tokens(tokenizer, names)
        vocabulary = Vocabulary(tokenizer, num_semantic=config.num_semantic, num_residual=config.num_residual)
    except ValueError as error:
        raise ValueError(f"{path}, with the tokenizer of {base} and the counts of config.yaml: {error}") from error
    if strange := [name for index, name in enumerate(names) if tokenizer.token_to_id(name) != num_base + index]:
        raise ValueError(
            f"{path}: {files.short(strange[0])} did not get the id of its place; use the tokenizer of Qwen2.5"
        )
    if num_base + len(names) != config.num_tokens:
        raise ValueError(
            f"{base} has {num_base} tokens and {path} adds {len(names)}, but the planner's table has "
            f"{config.num_tokens} rows; check that they belong together"
        )
    if len(names) == len(SPECIAL_TOKENS) and tuple(names) != SPECIAL_TOKENS:
        raise ValueError(f"{path} has the released names in another order, so ids would be swapped; fetch it again")
    return vocabulary
