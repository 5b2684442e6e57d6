"""How the audio encoder comes to hear, where no Whisper is at hand: recordings of several events, and their captions.

An event is the mean of the encoder's frames between its start and its end; its caption is the mean state of a text
encoder that rests. Each must find the other among all of the batch (InfoNCE, both ways). So the frames tell what is
heard and when, which is what the planner listens for. The two heads serve this pre-training alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from audiostory.model.inputs import HearingBatch, Losses
from audiostory.model.listener import AudioEncoder
from audiostory.model.text_encoder import TextEncoder

START_TEMPERATURE, LOWEST_TEMPERATURE = 0.07, 0.01  # CLIP's


class Hearing(nn.Module):
    """Audio encoder and text encoder, compared in a space `width` wide at a temperature that is learnt."""

    def __init__(self, audio_encoder: AudioEncoder, text_encoder: TextEncoder, *, width: int = 128):
        super().__init__()
        self.audio_encoder = audio_encoder
        self.text_encoder = text_encoder.requires_grad_(False)
        self.audio_head = nn.Linear(audio_encoder.width, width)
        self.text_head = nn.Linear(text_encoder.width, width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(START_TEMPERATURE)))

    def losses(self, batch: HearingBatch, generator: torch.Generator | None = None) -> Losses:
        """{"match"}: 0 when every event finds the captions that are its own, alike ones in equal parts, and they it.

        It compares within one batch; of several processes or micro-batches, each compares its own events. Nothing is
        drawn: `generator` is taken so that all roots are called alike.
        """
        heard = self.audio_head(self._events(batch))
        with torch.no_grad():
            states = self.text_encoder(batch.text_ids, batch.text_attention)  # [S M C]
            said = _mean(states, batch.text_attention)
        said = self.text_head(said)
        scale = self.log_scale.clamp(max=-math.log(LOWEST_TEMPERATURE)).exp()
        with torch.autocast(heard.device.type, enabled=False):
            similarity = scale * F.normalize(heard.float(), dim=1) @ F.normalize(said.float(), dim=1).T  # [S S]
        alike = (batch.text_ids[:, None] == batch.text_ids).all(-1).float()
        wanted = alike / alike.sum(1, keepdim=True)
        both = [F.kl_div(scores.log_softmax(1), wanted, reduction="batchmean") for scores in (similarity, similarity.T)]
        return Losses(named={"match": torch.stack(both).mean()})

    forward = losses

    def compilable_blocks(self) -> list[nn.Module]:
        return [*self.audio_encoder.encoder.layers]

    def _events(self, batch: HearingBatch) -> Float[Tensor, "S W"]:
        frames = self.audio_encoder(batch.log_mel)  # [N T W]
        own = _inside(batch.spans, frames.shape[1], self.audio_encoder.frame_rate)  # [S T]
        return _mean(frames[batch.event_row], own)


def _inside(spans: Float[Tensor, "S 2"], num_frames: int, frame_rate: float) -> Bool[Tensor, "S T"]:
    """Which frames have their middle between start and end; the nearest one where a span is shorter than a frame."""
    middles = (torch.arange(num_frames, device=spans.device) + 0.5) / frame_rate
    start, end = spans[:, :1], spans[:, 1:]
    nearest = (middles - (start + end) / 2).abs().argmin(1, keepdim=True)
    return ((middles >= start) & (middles < end)).scatter(1, nearest, True)


def _mean(states: Float[Tensor, "S T W"], counted: Bool[Tensor, "S T"]) -> Float[Tensor, "S W"]:
    weights = counted.float()[..., None]  # in half precision a mean of hundreds would be a rough one
    return (states.float() * weights).sum(1) / weights.sum(1)
