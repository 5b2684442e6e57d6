"""A released checkpoint into one of our model folders, bit for bit; `convert_back` has the way back.

    to_ours(released.Folders(model=..., tangoflux=...), Path("models/audiostory-3b"))

Tensors go from the mapped input to the output a shard at a time, in the dtype they are stored in, so a checkpoint need
not fit into memory. Only what nobody computes with, the release's visual resamplers, is not carried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from transformers import T5EncoderModel

from audiostory.model.planner import Planner
from audiostory.weights import build, files, lora, ours, released, writing
from audiostory.weights.keymap import Report
from audiostory.weights.writing import Lazy

EXTRAS = "released.json"  # in our folders: what only the released layout has a place for
SMALLEST_SHARD, LARGEST_SHARD = 32 << 20, 1 << 30  # bytes; an eighth of the whole if that lies between

LORA = f"planner/{lora.FOLDER}"
STEMS = {  # of the weight files of every component
    "planner": "model",
    LORA: "adapter_model",
    "bridge": "diffusion_pytorch_model",
    "dit": "diffusion_pytorch_model",
    "codec": "diffusion_pytorch_model",
    "text_encoder": "model",
    "listener_projector": "diffusion_pytorch_model",
}


def to_ours(
    folders: released.Folders, output: Path, *, merge_lora: bool = False, progress: bool = True
) -> dict[str, Report]:
    """A released checkpoint as a model folder, LoRA apart unless `merge_lora`. One report per weight file.

    ValueError for a checkpoint that `released.read` would refuse, and when `output` exists.
    """
    with writing.in_place_at_the_end(output) as aside:
        checkpoint = released.open_checkpoint(folders, progress)
        parts = _parts(checkpoint, merge_lora)
        num_bytes = sum(part.num_bytes for part in parts.values())
        largest = min(max(num_bytes // 8, SMALLEST_SHARD), LARGEST_SHARD)
        with writing.bytes_bar(num_bytes, progress) as bar:
            for name, part in parts.items():
                # peft knows no shards
                writing.save_shards(part, aside / name, STEMS[name], None if name == LORA else largest, bar)
        _write_our_configs(aside, checkpoint, parts)
    return checkpoint.reports


def belongs(tensor: str, part: str) -> bool:
    """Whether a tensor's name is of a folder of STEMS; LoRA's lies within the planner's and is not of it."""
    return tensor.startswith(f"{part}/") and (part == LORA or not tensor.startswith(f"{LORA}/"))


def _networks(checkpoint: released.Checkpoint) -> dict[str, nn.Module]:
    """By component, without memory."""
    empty = checkpoint.empty
    networks: dict[str, nn.Module] = {
        "planner": empty.planner,
        "bridge": empty.bridge,
        "dit": empty.dit,
        "codec": checkpoint.codec,
        "text_encoder": empty.text_encoder,
    }
    if empty.listener_projector is not None:
        networks["listener_projector"] = empty.listener_projector
    return networks


def _parts(checkpoint: released.Checkpoint, merge_lora: bool) -> dict[str, Lazy]:
    """Every folder of weights, with what the release's files do not hold but ours do."""
    source, networks = checkpoint.source, _networks(checkpoint)
    parts = {name: _part(name, checkpoint.vae_source if name == "codec" else source) for name in [LORA, *networks]}
    parts["bridge"] = _with(parts["bridge"], unconditional=_unconditional(checkpoint))
    codec = checkpoint.codec
    parts["codec"] = _with(parts["codec"], latent_mean=codec.latent_mean, latent_std=codec.latent_std)
    if merge_lora:
        shapes = build.planner_shapes(checkpoint.empty.planner)
        merging = build.merging(source.under("planner/"), shapes, checkpoint.config.lora)
        parts["planner"] = replace(parts["planner"], read=merging)
        del parts[LORA]
    return parts


def _part(name: str, source: build.Source) -> Lazy:
    """The tensors of one component, by its own names."""
    prefix = f"{name}/"
    like = {
        ours_name.removeprefix(prefix): source.tensors[theirs].to("meta")
        for ours_name, theirs in source.report.loaded.items()
        if belongs(ours_name, name)
    }

    def let_go() -> None:
        source.tensors = files.TensorFiles(source.tensors.paths)

    return Lazy(like=like, read=source.under(prefix), let_go=let_go)


def _with(part: Lazy, **computed: Tensor) -> Lazy:
    def read(name: str, dtype: torch.dtype) -> Tensor:
        return computed[name] if name in computed else part.read(name, dtype)

    return replace(part, like={**part.like, **{name: one.to("meta") for name, one in computed.items()}}, read=read)


def _unconditional(checkpoint: released.Checkpoint) -> Float[Tensor, "M C"]:
    """By a text encoder of its own, so that nothing of the file stays mapped with it."""
    config, source = checkpoint.empty.text_encoder.config, checkpoint.source
    model = build.on_meta(lambda: T5EncoderModel(config), source.origin)
    encoder = build.fill_text_encoder(model, source.under("text_encoder/"), checkpoint.text_tokenizer)
    return encoder.unconditional(checkpoint.config.num_semantic)


def _write_our_configs(aside: Path, checkpoint: released.Checkpoint, parts: Mapping[str, Lazy]) -> None:
    """Everything but the weights; the index last."""
    networks = _networks(checkpoint)
    for name, network in networks.items():
        if isinstance(network, ModelMixin):
            cast(Any, network).save_config(aside / name)
        else:
            config = cast(Any, network.qwen if isinstance(network, Planner) else network).config
            config.dtype = parts[name].dtype
            config.save_pretrained(aside / name)
    checkpoint.text_tokenizer.save(str(aside / "text_encoder" / "tokenizer.json"))
    config, flux = checkpoint.config, checkpoint.flux
    if LORA in parts:
        lora.write_settings(aside / LORA, config.lora, config.language_model)
    extras = {"text_encoder": flux.text_encoder_name, "loss_weights": dict(config.loss_weights)}
    writing.write_json(aside / EXTRAS, extras)
    ours.write_vocabulary(aside, checkpoint.vocabulary)
    ours.write_index(aside, networks, checkpoint.settings)
