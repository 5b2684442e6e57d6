"""Plain Hugging Face folders: Qwen2.5 as planner, Flan-T5 as text encoder, Whisper's encoder as listener.

Configurations are read as values, tensors through the tables below; no class that a folder names is ever imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedConfig, Qwen2Config, T5Config, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiostory.model import listener
from audiostory.model.listener import AudioEncoder
from audiostory.model.planner import Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.weights import build, files
from audiostory.weights.keymap import KeyMap

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# What is taken from each config.json: sizes, and what else the network computes by.
QWEN_SIZES = """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size
    max_position_embeddings
"""
QWEN_MANNERS = """
    hidden_act rms_norm_eps rope_theta rope_scaling rope_parameters tie_word_embeddings attention_dropout
    use_sliding_window sliding_window max_window_layers layer_types bos_token_id eos_token_id pad_token_id
"""
T5_SIZES = """
    d_model d_ff d_kv num_layers num_heads vocab_size relative_attention_num_buckets relative_attention_max_distance
"""
T5_MANNERS = "feed_forward_proj layer_norm_epsilon"
WHISPER_SIZES = "d_model encoder_layers encoder_attention_heads encoder_ffn_dim num_mel_bins max_source_positions"
WHISPER_MANNERS = "activation_function scale_embedding"

QWEN = KeyMap(
    [("{rest}", "planner/{rest}")],
    aliases={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=["{layer}.rotary_emb.inv_freq"],
)
FLAN_T5 = KeyMap(
    [("{rest}", "text_encoder/{rest}")],
    aliases={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    ignored=["decoder.{rest}", "lm_head.weight"],
)
WHISPER = KeyMap(
    [
        ("model.encoder.{rest}", "audio_encoder/encoder.{rest}"),
        ("encoder.{rest}", "audio_encoder/encoder.{rest}"),
        ("{rest}", "audio_encoder/encoder.{rest}"),  # an encoder that was saved by itself, as ours
    ],
    ignored=["model.decoder.{rest}", "decoder.{rest}", "proj_out.weight"],
)


def read_planner(
    folder: str | Path,
    num_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    names: Sequence[str] = WEIGHT_FILES,
) -> Planner:
    """A Qwen2.5 folder as a planner. With `num_tokens`, its table gets that many rows.

    Rows that are new start as the mean of all old ones, which is where the release's started (SPEC 3).
    """
    folder = Path(folder)
    tensors = files.open_weights(folder, names)
    config = qwen_config(folder)
    plain = build.empty_planner(config, tensors.shapes, "model.", folder)
    expected = {f"planner/{name}": shape for name, shape in build.planner_shapes(plain).items()}
    source = build.Source(QWEN, tensors, expected, folder, copied=True)
    if num_tokens is None or num_tokens == config.vocab_size:
        return build.fill_planner(plain, source.under("planner/"), dtype)

    def resized(name: str, dtype: torch.dtype) -> Tensor:
        tensor = source(f"planner/{name}", dtype)
        if name not in ("model.embed_tokens.weight", "lm_head.weight"):
            return tensor
        new = tensor.float().mean(0).to(dtype).expand(max(0, num_tokens - len(tensor)), -1)
        return torch.cat([tensor[:num_tokens], new])

    config.vocab_size = num_tokens
    return build.fill_planner(build.empty_planner(config, tensors.shapes, "model.", folder), resized, dtype)


def read_text_encoder(folder: str | Path, names: Sequence[str] = WEIGHT_FILES) -> TextEncoder:
    """A T5 or Flan-T5 folder as a text encoder in float32, without its decoder."""
    folder = Path(folder)
    tensors = files.open_weights(folder, names)
    model = build.empty_text_encoder(t5_config(folder), tensors.shapes, "", folder)
    expected = build.text_encoder_shapes(model, "text_encoder/")
    source = build.Source(FLAN_T5, tensors, expected, folder, copied=True)
    return build.fill_text_encoder(model, source.under("text_encoder/"), read_tokenizer(folder))


def read_audio_encoder(
    folder: str | Path, dtype: torch.dtype = torch.float32, names: Sequence[str] = WEIGHT_FILES
) -> AudioEncoder:
    """The encoder of a Whisper folder, a whole Whisper's or an encoder's alone, which hears for the listener."""
    folder = Path(folder)
    tensors = files.open_weights(folder, names)
    config = _config(WhisperConfig, folder, WHISPER_SIZES, WHISPER_MANNERS)
    _check_spectrogram(folder / "preprocessor_config.json", config)
    prefix = next((start for start in ("model.encoder.", "encoder.") if any(n.startswith(start) for n in tensors)), "")
    build.check_layers(config.encoder_layers, tensors.shapes, f"{prefix}layers.", folder)
    encoder = build.on_meta(lambda: AudioEncoder(WhisperEncoder(config)), folder)
    source = build.Source(WHISPER, tensors, build.shapes_of(encoder, "audio_encoder/"), folder, copied=True)
    return build.fill(encoder, source.under("audio_encoder/"), dtype)


def _check_spectrogram(path: Path, config: WhisperConfig) -> None:
    """ValueError unless the folder hears by the spectrogram that every Whisper hears by, in windows of its length."""
    said = files.read_json(path)
    expected = {
        "sampling_rate": listener.SAMPLE_RATE,
        "n_fft": listener.FFT_SAMPLES,
        "hop_length": listener.HOP_SAMPLES,
        "feature_size": config.num_mel_bins,
        "chunk_length": config.max_source_positions // listener.FRAME_RATE,
    }
    if wrong := [
        f"{name} is {files.short(said.get(name))}" for name, value in expected.items() if said.get(name) != value
    ]:
        wanted = ", ".join(f"{name} {value}" for name, value in expected.items())
        raise ValueError(
            f"{path}: {' and '.join(wrong)}; its config.json and every Whisper have {wanted}. Check that the files "
            "belong together, or copy the folder again"
        )


def read_tokenizer(folder: Path) -> Tokenizer:
    """Without the padding and truncation that a file may ask for: texts are padded and cut where they are used."""
    text = files.read_text(folder / "tokenizer.json", files.LARGEST_TOKENIZER)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing more special for a damaged file
        raise ValueError(
            f"{folder / 'tokenizer.json'} cannot be read ({files.reason(error)}); copy the folder again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def qwen_config(folder: Path) -> Qwen2Config:
    return _config(Qwen2Config, folder, QWEN_SIZES, QWEN_MANNERS)


def t5_config(folder: Path) -> T5Config:
    return _config(T5Config, folder, T5_SIZES, T5_MANNERS)


def repetition_penalty(folder: Path) -> float:
    """From generation_config.json, where the release takes it from by way of the library's defaults (SPEC 9, row 9)."""
    if not (folder / "generation_config.json").is_file():
        return 1.0
    value = files.read_json(folder / "generation_config.json").get("repetition_penalty", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise ValueError(
            f"{folder / 'generation_config.json'}: repetition_penalty is {files.short(value)}, expected about 1; "
            "correct it"
        )
    return float(value)


def _config(cls: type[PreTrainedConfig], folder: Path, sizes: str, manners: str) -> Any:
    """The values that the class's network needs, under the names given and no others: some make transformers import
    code or fetch it (auto_map, attn_implementation, quantization_config)."""
    path = folder / "config.json"
    values = files.read_json(path)
    if values.get("model_type") != cls.model_type:
        raise ValueError(
            f"{path} describes a model of type {files.short(values.get('model_type'))}, expected {cls.model_type!r}; "
            "check the path"
        )
    for name in sizes.split():
        if values.get(name) is not None:
            files.check_size(path, name, values[name])
    given = {name: values[name] for name in [*sizes.split(), *manners.split()] if name in values}
    if strange := [n for n, value in given.items() if isinstance(value, float) and not 0 <= value < math.inf]:
        raise ValueError(f"{path}: {strange[0]} is {given[strange[0]]}, expected a number from 0; copy it again")
    try:
        return cls.from_dict(given)
    except Exception as error:  # configurations check themselves, each in its own way
        raise ValueError(
            f"{path} is no configuration of {cls.model_type} ({files.reason(error)}); copy the folder again"
        ) from error
