"""Recorded numbers of the released system at tiny size, and our parts with the weights they were recorded with.

golden_weights.data("vae")["wave"]                               # tests/data/golden/data/vae.safetensors
golden_weights.tensors("ckpt/Flux_detokenizer/model.safetensors")["encoder.conv1.bias"]   # weights, upstream's keys
golden_weights.model().bridge                                    # a part, read as a user's checkpoint would be
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from audiostory.parity.checks import rounding
from audiostory.parity.recording import Recording
from audiostory.weights import released

GOLDEN = Path(__file__).parent / "data" / "golden"
RECORDING = Recording(GOLDEN)
TEXT_ENCODER = "ckpt/flan-t5-tiny/model.safetensors"
QWEN_TOKENIZER = GOLDEN / "ckpt_static" / "Qwen-tiny" / "tokenizer.json"


@cache
def data(name: str) -> dict[str, Tensor]:
    """Shared between tests: do not write into them."""
    return RECORDING.data(name)


@cache
def tensors(path: str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint file, by upstream's key. Shared between tests: do not write into them."""
    return RECORDING.weights(path)


def folders(checkpoint: Path) -> released.Folders:
    """Of a checkpoint that `RECORDING.rebuild` wrote."""
    return released.Folders(model=checkpoint / "audiostory-tiny", tangoflux=checkpoint / "Flux_detokenizer")


@cache
def model() -> released.Released:
    """LoRA merged. Shared between tests: leave it as it is."""
    return fresh_model()


def fresh_model(keep_lora: bool = False) -> released.Released:
    """For a test that changes it. Nothing stays mapped from the folder, which is gone when this returns."""
    with tempfile.TemporaryDirectory() as folder:
        return released.read(folders(RECORDING.rebuild(folder)), keep_lora=keep_lora, text_encoder=True)


def assert_as_recorded(ours: Tensor, recorded: Tensor) -> None:
    torch.testing.assert_close(ours, recorded, rtol=0, atol=rounding(recorded))
