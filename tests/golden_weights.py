"""Recorded numbers of the released system at tiny size, and the weights they were recorded with.

The weights are rebuilt, not stored: a tensor depends only on (seed, name, shape), see `_draw`. `manifest.json` names
every tensor of every checkpoint file and carries a digest per file, so a slip in the rebuilding cannot pass as a wrong
model.

    golden_weights.tensors("ckpt/Flux_detokenizer/model.safetensors")["encoder.conv1.bias"]  # weights, upstream's keys
    golden_weights.renamed(UNIFIED, {"tangoflux.fc.0.": "pooled."})                          # a part, under our keys
    golden_weights.data("vae")["wave"]                               # the tensors of tests/data/golden/vae.safetensors
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from audiostory.model.codec import Codec
from audiostory.story.vocabulary import SPECIAL_TOKENS, Vocabulary, add_special_tokens

GOLDEN = Path(__file__).parent / "data" / "golden"
UNIFIED = "ckpt/audiostory-tiny/pytorch_model.bin"  # planner, bridge, text encoder and DiT in one file
CODEC = "ckpt/Flux_detokenizer/model.safetensors"
TEXT_ENCODER = "ckpt/flan-t5-tiny/model.safetensors"
PLANNER_BASE = "ckpt/Qwen-tiny/model.safetensors"


@cache
def data(name: str) -> dict[str, Tensor]:
    """The recorded tensors of tests/data/golden/{name}.safetensors. Shared between tests: do not write into them."""
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def tensors(path: str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint file, by upstream's key. Shared between tests: do not write into them."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    entries = manifest["files"][path]["keys"]
    drawn = {key: _draw(manifest["seed"], entry) for key, entry in entries.items() if "alias" not in entry}
    built = {key: drawn[entry.get("alias", key)] for key, entry in entries.items()}
    digest = hashlib.sha256()
    for key in sorted(built):
        digest.update(key.encode())
        digest.update(built[key].numpy().tobytes())
    assert digest.hexdigest() == manifest["files"][path]["sha256"], f"{path} was not rebuilt as it was recorded"
    return built


def vocabulary() -> Vocabulary:
    """The recorded planner's: 20 semantic and 12 residual names, of which 8 and 4 are used."""
    tokenizer = Tokenizer.from_file(str(GOLDEN / "qwen_tiny_tokenizer.json"))
    unused = {f"<t5_{i:05d}>" for i in range(20, 100)} | {f"<aud_{i:05d}>" for i in range(12, 501)}
    add_special_tokens(tokenizer, [name for name in SPECIAL_TOKENS if name not in unused])
    return Vocabulary(tokenizer, num_semantic=8, num_residual=4)


def codec() -> Codec:
    """The recorded VAE. Its encoder has 4 latent channels and its decoder 64, so it serves one way at a time."""
    codec = Codec(
        sample_rate=400,
        encoder_hidden_size=8,
        downsampling_ratios=(2, 4, 4),
        channel_multiples=(1, 2, 2),
        decoder_channels=8,
    ).eval()
    codec.vae.load_state_dict(tensors(CODEC), strict=True)
    return codec


def assert_as_recorded(ours: Tensor, recorded: Tensor) -> None:
    """To 1e-5 of the largest entry, where entries are well above 1.

    There 1e-5 itself is less than the recording's own rounding: computed in float64, `encode_mean` (up to 20.8) is
    5.8e-5 away from what was recorded, and in float32 on a processor that rounds otherwise 2.9e-5.
    """
    torch.testing.assert_close(ours, recorded, rtol=0, atol=1e-5 * recorded.abs().max().item())


def renamed(path: str, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors whose key starts with one of `prefixes`, under the prefix it maps to; the others are left out."""
    return {
        new + key.removeprefix(old): tensor
        for old, new in prefixes.items()
        for key, tensor in tensors(path).items()
        if key.startswith(old)
    }


def _draw(seed: int, entry: Mapping) -> Tensor:
    """24 uniform bits per weight from a Philox generator that is keyed by the name; exact on every machine."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{entry['name']}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(int(np.prod(entry["shape"], dtype=int)))
    uniform = (raw >> np.uint64(40)) * 2.0**-24 - 0.5
    return torch.from_numpy((entry["offset"] + 2.0 * entry["amp"] * uniform).astype(np.float32).reshape(entry["shape"]))
