"""Puts samples side by side: padding, masks, and all rows' events on one axis. The third hop of a training sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiostory.dataset.sample import ClipSample, Crop, Sample, Window
from audiostory.model.inputs import ClipBatch, HearingBatch, StoryBatch, WaveformBatch


def collate(samples: Sequence[Sample]) -> StoryBatch:
    """Rows of any number of events, with or without a recording in their instruction.

    Latents, teacher states or clip features that one row with events lacks are lacking in the batch.
    """
    events = [(row, event) for row, sample in enumerate(samples) for event in range(len(sample.script.slots))]
    slots = [samples[row].script.slots[event] for row, event in events]
    num_semantic, num_residual = samples[0].bridge_sizes
    ids = pad_sequence([torch.tensor(sample.script.ids) for sample in samples], batch_first=True)
    lengths = torch.tensor([len(sample.script.ids) for sample in samples])
    latents = _joined([sample.latents for sample in samples if sample.script.slots])
    teacher = _joined([sample.teacher for sample in samples if sample.script.slots])
    clip_features = _joined([sample.clip_features for sample in samples if sample.script.slots])
    return StoryBatch(
        ids=ids,
        attention=torch.arange(ids.shape[1]) < lengths[:, None],
        roles=pad_sequence([torch.tensor(sample.script.roles) for sample in samples], batch_first=True),  # 0: prompt
        event_row=_whole([row for row, _ in events]),
        semantic_slots=_whole([list(slot.semantic) for slot in slots]).reshape(-1, num_semantic),
        residual_slots=_whole([list(slot.residual) for slot in slots]).reshape(-1, num_residual),
        seconds=torch.tensor([seconds for sample in samples for seconds in sample.seconds]),
        frames=_whole([0] * len(events) if latents is None else [len(one) for one in latents]),
        latents=None if latents is None else pad_sequence(latents, batch_first=True),
        teacher=None if teacher is None else torch.stack(teacher),
        clip_features=None if clip_features is None else torch.stack(clip_features),
        **_recordings(samples),
        sample_ids=tuple(sample.id for sample in samples),
    )


def _recordings(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The windows of all rows' recordings on one axis, and where each is heard; nothing where no row has one."""
    holding = [(row, sample.script, one) for row, sample in enumerate(samples) if (one := sample.features) is not None]
    if not holding:
        return {}
    return {
        "audio_features": torch.cat([features for _, _, features in holding]),
        "audio_row": _whole([row for row, _, features in holding for _ in features]),
        "audio_slots": torch.cat([_whole(script.listening).reshape(one.shape[:2]) for _, script, one in holding]),
    }


def collate_clips(samples: Sequence[ClipSample], text_ids: Tensor, text_attention: Tensor) -> ClipBatch:
    """`text_ids` and `text_attention` [S M] are the samples' captions, in order."""
    return ClipBatch(
        text_ids=text_ids,
        text_attention=text_attention,
        seconds=torch.tensor([sample.seconds for sample in samples]),
        frames=torch.tensor([len(sample.latents) for sample in samples]),
        latents=pad_sequence([sample.latents for sample in samples], batch_first=True),
        sample_ids=tuple(sample.id for sample in samples),
    )


def collate_hearing(
    windows: Sequence[Window], log_mel: Float[Tensor, "N F X"], text_ids: Tensor, text_attention: Tensor
) -> HearingBatch:
    """`log_mel` are the windows' spectrograms, `text_ids` and `text_attention` [S M] all their events' captions."""
    events = [(row, event) for row, window in enumerate(windows) for event in window.events]
    return HearingBatch(
        log_mel=log_mel,
        event_row=_whole([row for row, _ in events]),
        spans=torch.tensor([(event.start, event.end) for _, event in events]).reshape(-1, 2),
        text_ids=text_ids,
        text_attention=text_attention,
        sample_ids=tuple(event.id for _, event in events),
    )


def collate_crops(crops: Sequence[Crop]) -> WaveformBatch:
    return WaveformBatch(
        samples=torch.stack([torch.from_numpy(crop.samples) for crop in crops]),
        sample_ids=tuple(crop.id for crop in crops),
    )


def fill(batch: StoryBatch | ClipBatch | WaveformBatch | HearingBatch) -> tuple[int, int]:
    """How many script tokens and latent frames of a batch are content, and for how many it has room."""
    if isinstance(batch, WaveformBatch | HearingBatch):  # windows are equally long
        size = (batch.samples if isinstance(batch, WaveformBatch) else batch.log_mel).numel()
        return size, size
    content, room = 0, 0
    if isinstance(batch, StoryBatch):
        content, room = int(batch.attention.sum()), batch.attention.numel()
    if batch.latents is not None:
        content, room = content + int(batch.frames.sum()), room + batch.latents.shape[0] * batch.latents.shape[1]
    return content, room


def _joined(per_sample: Sequence[tuple[Tensor, ...] | None]) -> list[Tensor] | None:
    if not per_sample or any(tensors is None for tensors in per_sample):
        return None
    return [tensor for tensors in per_sample for tensor in tensors or ()]


def _whole(numbers: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """Of nothing too: torch would take an empty list for floats."""
    return torch.tensor(numbers, dtype=torch.long)
