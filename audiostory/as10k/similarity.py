"""How alike two frames are: the cosine of their features.

The paper compares features of DINOv2. Where its weights lie in a folder, so do we; otherwise colours and a coarse view
of the frame stand in, and every record says which of the two it was.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Likeness(Protocol):
    """Turns frames [N side side 3] uint8, RGB, into features [N D] float32 of length 1. The records have its `name`."""

    @property
    def name(self) -> str: ...
    @property
    def side(self) -> int: ...
    def __call__(self, frames: np.ndarray) -> np.ndarray: ...


class ColourLikeness:
    """Half a histogram of colours, half the frame at 8 x 8 points: where the colours are. No weights are needed."""

    name, side = "colours", 64

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        bins = (frames >> 6).astype(np.int64) @ np.array([16, 4, 1])  # [N S S], 4 shades a channel
        histograms = np.stack([np.bincount(frame.ravel(), minlength=64) for frame in bins]).astype(np.float32)
        block = self.side // 8
        coarse = frames.reshape(len(frames), 8, block, 8, block, 3).mean((2, 4)).reshape(len(frames), -1) / 255
        # Square roots, so that no large surface outshouts all else; 1 % of white, so that black points somewhere.
        parts = [_unit(np.sqrt(histograms)), _unit(coarse.astype(np.float32) + 0.01)]
        return np.concatenate(parts, axis=1) / np.sqrt(2)


class DinoLikeness:
    """DINOv2's class token, from a local folder in transformers' layout. Nothing is downloaded."""

    side = 224

    def __init__(self, folder: Path):
        config = folder / "config.json"
        if not config.is_file() or not (folder / "model.safetensors").is_file():
            raise ValueError(f"{folder} holds no DINOv2: expected config.json and model.safetensors in it")
        self.folder = folder
        facts = config.read_bytes() + str((folder / "model.safetensors").stat().st_size).encode()
        self.name = f"dinov2 {hashlib.sha256(facts).hexdigest()[:8]}"

    @cached_property
    def _model(self) -> Any:
        from transformers import Dinov2Model

        try:
            model = Dinov2Model.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.folder} cannot be read as DINOv2: {str(error).splitlines()[0]}") from error
        return model.eval()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        import torch

        # Mean and spread of ImageNet's colours, which all DINOv2 models were trained with.
        scaled = (frames.astype(np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        pixels = torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            states = self._model(pixel_values=pixels).last_hidden_state[:, 0]
        return _unit(states.float().numpy())


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
