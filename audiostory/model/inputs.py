"""What the network eats and what it hands on, with the one legend of shapes.

Shape letters: B rows, L script tokens, S events of all rows together (`event_row` leads back to the row), M semantic
and R residual tokens per event, N condition tokens, H planner width, C condition width, T latent frames, Z latent
channels, A audio channels, W waveform samples. For audio that is heard: N windows of recordings, F mel bands and X
frames of their spectrograms, T frames of W features that the encoder makes of them, K listening tokens per window.
D and E are the widths of what the semantic and the residual tokens are taught by: C and nothing, but for ablations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Movable:
    """Mixin for the batches below: a copy whose tensors live on `device`."""

    def to(self, device: torch.device | str, non_blocking: bool = False):
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class StoryBatch(Movable):
    """Rows of scripts with their events. `latents` is None for a batch that teaches the planner alone."""

    ids: Int[Tensor, "B L"]
    attention: Bool[Tensor, "B L"]
    roles: Int[Tensor, "B L"]
    event_row: Int[Tensor, S]
    semantic_slots: Int[Tensor, "S M"]
    residual_slots: Int[Tensor, "S R"]
    seconds: Float[Tensor, S]  # what the DiT is told: the clip's length, cross-fade included
    frames: Int[Tensor, S]
    latents: Float[Tensor, "S T Z"] | None = None
    teacher: Float[Tensor, "S M C"] | None = None
    clip_features: Float[Tensor, "S M E"] | None = None  # what an audio encoder hears in each event's clip
    audio_features: Float[Tensor, "N T W"] | None = None  # of the recordings that instructions hold, all windows
    audio_row: Int[Tensor, N] | None = None
    audio_slots: Int[Tensor, "N K"] | None = None  # the tokens that a window is heard at
    sample_ids: tuple[str, ...] = ()  # one per row, for error messages


@dataclass(frozen=True, kw_only=True)
class ClipBatch(Movable):
    """Single clips with their caption tokens: what the text-to-audio pre-training eats."""

    text_ids: Int[Tensor, "S M"]
    text_attention: Bool[Tensor, "S M"]
    seconds: Float[Tensor, S]
    frames: Int[Tensor, S]
    latents: Float[Tensor, "S T Z"]
    sample_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WaveformBatch(Movable):
    """Crops of equal length: what the codec eats in training."""

    samples: Float[Tensor, "S A W"]
    sample_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HearingBatch(Movable):
    """Windows of sound and the events heard in them: what the audio encoder eats in its pre-training."""

    log_mel: Float[Tensor, "N F X"]
    event_row: Int[Tensor, S]  # the window of each event
    spans: Float[Tensor, "S 2"]  # its start and end in seconds from the beginning of its window
    text_ids: Int[Tensor, "S M"]
    text_attention: Bool[Tensor, "S M"]
    sample_ids: tuple[str, ...] = ()  # one per event


@dataclass(frozen=True, kw_only=True)
class BridgeTokens:
    """The planner's states, after the final norm, at an event's bridge tokens (SPEC 4)."""

    semantic: Float[Tensor, "S M H"]
    residual: Float[Tensor, "S R H"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the DiT is told. `seconds` becomes one more token inside the DiT; the tokens carry no order (SPEC 7)."""

    tokens: Float[Tensor, "S N C"]
    seconds: Float[Tensor, S]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Scalars by name; `absent` are those that were wanted and that the batch held nothing for."""

    named: Mapping[str, Float[Tensor, ""]]
    absent: Collection[str] = ()

    def weighted(self, weights: Mapping[str, float]) -> Float[Tensor, ""]:
        """The sum a step descends. What is neither here nor absent is an error: no misnamed weight passes unseen."""
        missing = sorted(set(weights) - set(self.named) - set(self.absent))
        if missing or not set(weights) & set(self.named):
            wanted = ", ".join(missing or weights)
            raise ValueError(f"no loss named {wanted}; this batch gave {', '.join(sorted(self.named))}")
        return torch.stack([weight * self.named[name] for name, weight in weights.items() if name in self.named]).sum()
