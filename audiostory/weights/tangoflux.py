"""TangoFlux folders: the DiT that AudioStory starts from, its text encoder, and the VAE (SPEC 2).

Two layouts are published:

    config.json  tangoflux.safetensors  vae.safetensors      TangoFlux itself
    config.json  model.safetensors                           beside AudioStory's checkpoint: the VAE alone

A `vae_config.json`, if there is one, gives the VAE's sizes; otherwise they are those of Stable Audio's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.text_encoder import TextEncoder
from audiostory.weights import build, files, huggingface
from audiostory.weights.keymap import KeyMap, Report

log = logging.getLogger(__name__)

TANGOFLUX_FILE, VAE_FILE, VAE_ONLY_FILE = "tangoflux.safetensors", "vae.safetensors", "model.safetensors"

DIT = KeyMap(
    [
        ("transformer.{rest}", "dit/transformer.{rest}"),
        ("fc.0.{rest}", "dit/pooled.{rest}"),
        ("duration_emebdder.time_positional_embedding.0.weights", "dit/duration_embedder.frequencies"),
        ("duration_emebdder.time_positional_embedding.1.{rest}", "dit/duration_embedder.projection.{rest}"),
    ]
)
TEXT_ENCODER = KeyMap(
    [("text_encoder.{rest}", "text_encoder/{rest}")],
    aliases={"text_encoder.encoder.embed_tokens.weight": "text_encoder.shared.weight"},
)
VAE = KeyMap([("{rest}", "codec/vae.{rest}")])


@dataclass(frozen=True, kw_only=True)
class TangoFluxConfig:
    """config.json, with the defaults that the release's code has for what the file leaves out (SPEC 2)."""

    num_layers: int = 6
    num_single_layers: int = 18
    in_channels: int = 64
    attention_head_dim: int = 128
    joint_attention_dim: int = 1024
    num_attention_heads: int = 8
    audio_seq_len: int = 645
    max_duration: float = 30
    uncondition: bool = False
    text_encoder_name: str = "google/flan-t5-large"


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The sizes of the VAE; the defaults are diffusers' and the release's."""

    encoder_hidden_size: int = 128
    downsampling_ratios: Sequence[int] = (2, 4, 4, 8, 8)
    channel_multiples: Sequence[int] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64
    audio_channels: int = 2
    sampling_rate: int = 44100


def read_config(folder: Path) -> TangoFluxConfig:
    path = folder / "config.json"
    said = files.read_json(path)
    values = {field.name: said[field.name] for field in fields(TangoFluxConfig) if field.name in said}
    if unknown := sorted(set(said) - set(values)):  # the release passes over it too
        log.warning("%s sets %s, which nothing here uses", path, files.short(unknown))
    for name, value in values.items():
        if name not in ("uncondition", "text_encoder_name"):
            files.check_size(path, name, value, whole=name != "max_duration")
    if not isinstance(values.get("text_encoder_name", ""), str):
        raise ValueError(
            f"{path}: text_encoder_name is {files.short(values['text_encoder_name'])}, expected a folder's name; "
            "copy the folder again"
        )
    if not isinstance(values.get("uncondition", False), bool):
        raise ValueError(
            f"{path}: uncondition is {files.short(values['uncondition'])}, expected true or false; copy it again"
        )
    return TangoFluxConfig(**values)


def read_vae_config(folder: Path) -> VaeConfig:
    path = folder / "vae_config.json"
    if not path.is_file():
        return VaeConfig()
    values = files.read_json(path)
    if unknown := sorted(set(values) - {field.name for field in fields(VaeConfig)}):
        raise ValueError(
            f"{path} sets {files.short(unknown)}, which this VAE does not have; it has {', '.join(asdict(VaeConfig()))}"
        )
    for name, value in values.items():
        check = files.check_sizes if name in ("downsampling_ratios", "channel_multiples") else files.check_size
        check(path, name, value)
    return VaeConfig(**values)


def empty_dit(
    config: TangoFluxConfig, vae: VaeConfig, shapes: build.Shapes, prefix: str, origin: object
) -> VelocityDiT:
    """Without memory. The sequence is as long as the weights were trained with, whatever a clip lasts (SPEC 7).

    `prefix` stands before "transformer." in the shapes' names.
    """
    build.check_layers(config.num_layers, shapes, f"{prefix}transformer.transformer_blocks.", origin)
    build.check_layers(config.num_single_layers, shapes, f"{prefix}transformer.single_transformer_blocks.", origin)
    return build.on_meta(
        lambda: VelocityDiT(
            num_layers=config.num_layers,
            num_single_layers=config.num_single_layers,
            attention_head_dim=config.attention_head_dim,
            num_attention_heads=config.num_attention_heads,
            joint_attention_dim=config.joint_attention_dim,
            in_channels=config.in_channels,
            max_seconds=float(config.max_duration),
            fixed_frames=config.audio_seq_len,
            frame_rate=vae.sampling_rate / math.prod(vae.downsampling_ratios),
        ),
        origin,
    )


def empty_codec(config: VaeConfig, shapes: build.Shapes, origin: object) -> Codec:
    """Without memory but for the normalisation, which the release has none of."""
    build.check_layers(len(config.downsampling_ratios), shapes, "encoder.block.", origin)
    codec = build.on_meta(
        lambda: Codec(
            sample_rate=config.sampling_rate,
            audio_channels=config.audio_channels,
            encoder_hidden_size=config.encoder_hidden_size,
            downsampling_ratios=list(config.downsampling_ratios),
            channel_multiples=list(config.channel_multiples),
            decoder_channels=config.decoder_channels,
            latent_channels=config.decoder_input_channels,
        ),
        origin,
    )
    codec.latent_mean = torch.zeros(config.decoder_input_channels)
    codec.latent_std = torch.ones(config.decoder_input_channels)
    return codec


def open_codec(folder: Path) -> tuple[Codec, build.Source]:
    """The VAE of either layout as a codec without memory, and where its tensors come from."""
    tensors = files.open_weights(folder, (VAE_FILE, VAE_ONLY_FILE))
    codec = empty_codec(read_vae_config(folder), tensors.shapes, folder)
    return codec, build.Source(VAE, tensors, build.shapes_of(codec.vae, "codec/vae."), folder)


def fill_codec(codec: Codec, source: build.Source, dtype: torch.dtype) -> Codec:
    build.fill(codec.vae, source.under("codec/vae."), dtype)
    return codec.eval()


def read_codec(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Codec, Report]:
    """The VAE of either layout, strictly, as a codec in eval mode."""
    codec, source = open_codec(Path(folder))
    return fill_codec(codec, source, dtype), source.report


def read(
    folder: str | Path, text_encoder: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[VelocityDiT, TextEncoder, Codec]:
    """The whole of TangoFlux, from its own layout: where the training of AudioStory starts.

    `text_encoder` is the Flan-T5 folder; without it, it is looked for beside this one under the name the config gives.
    """
    folder = Path(folder)
    config, tensors = read_config(folder), files.open_weights(folder, (TANGOFLUX_FILE,))
    t5_folder = Path(text_encoder) if text_encoder else beside(folder, config.text_encoder_name, "text encoder")
    dit = empty_dit(config, read_vae_config(folder), tensors.shapes, "", folder)
    t5 = build.empty_text_encoder(huggingface.t5_config(t5_folder), tensors.shapes, "text_encoder.", folder)
    expected = {**build.shapes_of(dit, "dit/"), **build.text_encoder_shapes(t5, "text_encoder/")}
    source = build.Source(DIT + TEXT_ENCODER, tensors, expected, folder)
    encoder = build.fill_text_encoder(t5, source.under("text_encoder/"), huggingface.read_tokenizer(t5_folder))
    return build.fill(dit, source.under("dit/"), dtype), encoder, read_codec(folder, dtype)[0]


def beside(folder: Path, named: str, what: str) -> Path:
    """The folder that a checkpoint names, such as "ckpt/flan-t5-large": as seen from where `folder`'s own ckpt/ lies,
    or under its last name beside or inside `folder`. ValueError for a path that leads out, and when there is none."""
    absolute = folder.absolute()
    says = "config.yaml" if (folder / "config.yaml").is_file() else "config.json"
    relative = files.inside(absolute, named, says).relative_to(absolute)
    places = [absolute.parent.parent / relative, absolute.parent / relative.name, absolute / relative.name]
    for place in places:
        if place.exists():
            return place
    raise ValueError(
        f"{folder / says} names {named!r} as its {what}, and there is none at {' or '.join(map(str, places))}; "
        "put it there, or say where it is (--help lists how)"
    )
