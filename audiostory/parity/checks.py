"""The comparison itself: a recorded number, ours, and how far apart they may be.

Tolerances are those the recording asks for. Two of them need a word. What the planner's states flow into is compared
relative to the size of the tensor, since features are of order 10. And the absolute 1e-5 of the other parts gets 2e-6
of the largest entry on top: matrix libraries sum in another order on other processors. The check of the codec's
encoder, whose entries reach 20, gives an error of 0 or of 3e-5 depending on the kernels that one library chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiostory.parity.recording import Recording
from audiostory.pipeline import AudioStoryPipeline
from audiostory.weights.released import Released

WAVE = 5e-5
STATES = 5e-5  # relative
LOSS = 1e-4  # relative


@dataclass(frozen=True, kw_only=True)
class Check:
    """`error` is the largest absolute difference; infinite for another shape, or when ours could not be computed.

    `note` says what is not in the numbers: what went wrong, or where we mean to differ from the release.
    """

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN too

    def __str__(self) -> str:
        line = f"{self.name:<52} {self.error:9.2e} {self.tolerance:9.2e}  {'ok' if self.passed else 'FAIL'}"
        return f"{line}\n    {self.note}" if self.note else line


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The recorded checkpoint as our parts: `merged` as it tells stories, `apart` (with LoRA) as it is trained."""

    recording: Recording
    merged: Released
    apart: Released
    pipeline: AudioStoryPipeline


Checks = Iterator[Check]
CheckFile = Callable[[Subject], Checks]


def absolute(name: str, ours: Any, recorded: Any, tolerance: float | None = None) -> Check:
    """Without a tolerance: `rounding` of what was recorded."""
    recorded = torch.as_tensor(recorded)
    return _compare(name, ours, recorded, rounding(recorded) if tolerance is None else tolerance)


def relative(name: str, ours: Any, recorded: Any, tolerance: float = STATES) -> Check:
    """`tolerance` is a share of the largest recorded entry."""
    recorded = torch.as_tensor(recorded)
    return _compare(name, ours, recorded, tolerance * _largest(recorded))


def exact(name: str, ours: Any, recorded: Any, note: str = "") -> Check:
    """Ids, texts and shapes: no difference allowed. Tensors count by their entries, anything else as equal or not."""
    if isinstance(recorded, Tensor):
        check = _compare(name, ours, recorded, 0.0)
        return Check(name=name, error=check.error, tolerance=0.0, note=note or check.note)
    same = ours == recorded
    if not same and not note:
        note = f"recorded {_short(recorded)}, ours {_short(ours)}"
    return Check(name=name, error=0.0 if same else float("inf"), tolerance=0.0, note=note)


def rounding(recorded: Tensor) -> float:
    return 1e-5 + 2e-6 * _largest(recorded)


def failed(name: str, reason: object) -> Check:
    return Check(name=name, error=float("inf"), tolerance=0.0, note=" ".join(str(reason).split()))


def _compare(name: str, ours: Any, recorded: Tensor, tolerance: float) -> Check:
    ours = torch.from_numpy(ours) if isinstance(ours, np.ndarray) else torch.as_tensor(ours)
    if ours.shape != recorded.shape:
        return failed(name, f"recorded a shape of {list(recorded.shape)}, ours is {list(ours.shape)}")
    error = (ours.detach().double() - recorded.double()).abs()
    largest = error.max().item() if error.numel() else 0.0
    return Check(name=name, error=largest if largest == largest else float("inf"), tolerance=tolerance)


def _largest(recorded: Tensor) -> float:
    return recorded.double().abs().max().item() if recorded.numel() else 0.0


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
