"""Puts samples side by side: padding, masks, and all rows' events on one axis. The third hop of a training sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiostory.dataset.sample import ClipSample, Crop, Sample
from audiostory.model.inputs import ClipBatch, StoryBatch, WaveformBatch


def collate(samples: Sequence[Sample]) -> StoryBatch:
    """Rows of any number of events. Latents or teacher states that one sample lacks are lacking in the batch."""
    events = [(row, event) for row, sample in enumerate(samples) for event in range(len(sample.script.slots))]
    slots = [samples[row].script.slots[event] for row, event in events]
    ids = pad_sequence([torch.tensor(sample.script.ids) for sample in samples], batch_first=True)
    lengths = torch.tensor([len(sample.script.ids) for sample in samples])
    latents = _joined([sample.latents for sample in samples])
    teacher = _joined([sample.teacher for sample in samples])
    return StoryBatch(
        ids=ids,
        attention=torch.arange(ids.shape[1]) < lengths[:, None],
        roles=pad_sequence([torch.tensor(sample.script.roles) for sample in samples], batch_first=True),  # 0: prompt
        event_row=torch.tensor([row for row, _ in events]),
        semantic_slots=torch.tensor([list(slot.semantic) for slot in slots]),
        residual_slots=torch.tensor([list(slot.residual) for slot in slots]),
        seconds=torch.tensor([seconds for sample in samples for seconds in sample.seconds]),
        frames=torch.tensor([0] * len(events) if latents is None else [len(one) for one in latents]),
        latents=None if latents is None else pad_sequence(latents, batch_first=True),
        teacher=None if teacher is None else torch.stack(teacher),
        sample_ids=tuple(sample.id for sample in samples),
    )


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


def collate_crops(crops: Sequence[Crop]) -> WaveformBatch:
    return WaveformBatch(
        samples=torch.stack([torch.from_numpy(crop.samples) for crop in crops]),
        sample_ids=tuple(crop.id for crop in crops),
    )


def fill(batch: StoryBatch | ClipBatch | WaveformBatch) -> tuple[int, int]:
    """How many script tokens and latent frames of a batch are content, and for how many it has room."""
    if isinstance(batch, WaveformBatch):
        return batch.samples.numel(), batch.samples.numel()
    content, room = 0, 0
    if isinstance(batch, StoryBatch):
        content, room = int(batch.attention.sum()), batch.attention.numel()
    if batch.latents is not None:
        content, room = content + int(batch.frames.sum()), room + batch.latents.shape[0] * batch.latents.shape[1]
    return content, room


def _joined(per_sample: Sequence[tuple[Tensor, ...] | None]) -> list[Tensor] | None:
    if any(tensors is None for tensors in per_sample):
        return None
    return [tensor for tensors in per_sample for tensor in tensors or ()]
