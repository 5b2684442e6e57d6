"""Single clips from their captions: our own DiT under its text encoder, as stage `tangoflux` trains it, or TangoFlux.

The condition is the one of that training (`model.audiostory.TextToAudio`): the encoder's states of the caption, and
those of the empty text to guide away from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiostory import timeline
from audiostory.model import flow
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT, denoise
from audiostory.model.inputs import Condition
from audiostory.model.text_encoder import TextEncoder
from audiostory.pipeline import SHORTEST_CLIP_SECONDS
from audiostory.sound import Waveform
from audiostory.story_audio import Rendering
from audiostory.systems.models import checked_device, fingerprint
from audiostory.weights.origins import Origin
from audiostory.weights.tangoflux import TANGOFLUX_FILE

MOST_TOKENS = 512  # of a caption, which is cut behind them, as in TangoFlux
STEPS, GUIDANCE, TANGOFLUX_GUIDANCE = 25, 3.0, 4.5  # the small model's choices; TangoFlux's own steps are as many


class OurTextToAudio:
    """Text encoder and DiT from `folder` (a stage's export, a model folder, or TangoFlux), and the codec from its own
    folder, or from the same one if none is named.

    Captions are padded to `num_tokens`, as they were in training: the run's model.num_semantic. A longer one, such as
    that of a whole story, is not cut as in training but takes as many tokens as it has, and its clip is denoised alone.
    TangoFlux pads none, so where `folder` has its layout this number is passed over. One thing differs from TangoFlux
    there: the DiT's mean over the empty text takes in the padding, as in AudioStory's release (SPEC 7).

    Steps and guidance that are None are the small model's, or TangoFlux's. The networks are loaded when first needed.
    ValueError for a folder that holds none, or parts that do not fit.
    """

    def __init__(
        self,
        folder: Path,
        codec: Path | None = None,
        *,
        device: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        num_tokens: int = 16,
    ) -> None:
        is_tangoflux = (folder / TANGOFLUX_FILE).is_file()
        self.steps = STEPS if steps is None else steps
        self.guidance = (TANGOFLUX_GUIDANCE if is_tangoflux else GUIDANCE) if guidance is None else guidance
        Rendering(seed=0, steps=self.steps, guidance=self.guidance, crossfade_seconds=0.0)  # says now what is wrong
        self.num_tokens = None if is_tangoflux else num_tokens
        self._origin, self._device = Origin(folder), device
        self._codec_origin = self._origin if codec is None else Origin(codec)
        self.settings: dict[str, Any] = {
            "text_to_audio": "ours",
            "text_to_audio_sha256": fingerprint(folder),
            "codec_sha256": fingerprint(folder if codec is None else codec),
            "steps": self.steps,
            "guidance": self.guidance,
            "num_tokens": self.num_tokens,
        }

    @property
    def longest_seconds(self) -> float:
        dit = self._networks.dit
        fixed = dit.fixed_frames
        return dit.max_seconds if fixed is None else min(dit.max_seconds, fixed / dit.frame_rate)

    def sounds(self, captions: Sequence[str], seconds: Sequence[float], seeds: Sequence[int]) -> list[Waveform]:
        """A clip per caption, of its seconds to the sample, denoised together where captions fit into `num_tokens`.
        What a clip is like depends on its own caption, seconds and seed, but for what rounding makes of the others'."""
        counts = self._networks.text_encoder.tokenize(captions, MOST_TOKENS)[1].sum(1).tolist()
        shared = self.num_tokens or 0  # no caption has 0 tokens: each goes alone
        together = [index for index, count in enumerate(counts) if count <= shared]
        groups = [([index], count) for index, count in enumerate(counts) if count > shared]
        groups += [(together, shared)] if together else []
        waveforms: dict[int, Waveform] = {}
        for members, num_tokens in groups:
            clips = self._render(
                [captions[index] for index in members],
                [seconds[index] for index in members],
                [seeds[index] for index in members],
                num_tokens,
            )
            waveforms.update(zip(members, clips, strict=True))
        return [waveforms[index] for index in range(len(captions))]

    @torch.no_grad()
    def _render(
        self, captions: Sequence[str], seconds: Sequence[float], seeds: Sequence[int], num_tokens: int
    ) -> list[Waveform]:
        dit, text_encoder, codec = self._networks.dit, self._networks.text_encoder, self._networks.codec
        device = self._networks.device
        told = [max(length, SHORTEST_CLIP_SECONDS) for length in seconds]
        frames = [dit.num_frames(length) for length in told]
        channels = dit.config["in_channels"]
        noise = [
            flow.clip_noise(seed, 0, count, channels, shared=True) for seed, count in zip(seeds, frames, strict=True)
        ]
        latents = denoise(
            dit,
            noise,
            Condition(tokens=text_encoder.encode(captions, num_tokens), seconds=torch.tensor(told, device=device)),
            text_encoder.unconditional(num_tokens),
            steps=self.steps,
            guidance=self.guidance,
        )
        rate, waveforms = codec.sample_rate, []
        for caption, clip, length in zip(captions, latents, seconds, strict=True):
            num_samples = timeline.place(length, rate)
            decodable = min(max(num_samples, 1), len(clip) * codec.hop)
            samples = codec.decode(clip[None], num_samples=decodable)[0].float().cpu().numpy()
            if not np.isfinite(samples).all():
                raise ValueError(
                    f"the clip of {caption!r} is not finite; are the weights of {self._origin.folder} whole?"
                )
            waveforms.append(timeline.fit(Waveform(samples=samples, sample_rate=rate), num_samples))
        return waveforms

    @cached_property
    def _networks(self) -> _Networks:
        device = checked_device(self._device)
        dit, text_encoder = self._origin.read("dit"), self._origin.read("text_encoder")
        codec = self._codec_origin.read("codec")
        pairs = {
            "text encoder width and DiT": (text_encoder.width, dit.config["joint_attention_dim"]),
            "DiT channels and codec": (dit.config["in_channels"], codec.config["latent_channels"]),
            "latent frames per second of DiT and codec": (round(dit.frame_rate, 3), round(codec.frame_rate, 3)),
        }
        if wrong := [f"{what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other]:
            raise ValueError(
                f"{self._origin.folder} and the codec in {self._codec_origin.folder} do not fit ({'; '.join(wrong)}); "
                "give the codec whose latents the DiT was trained on"
            )
        return _Networks(
            text_encoder=text_encoder.to(device), dit=dit.to(device), codec=codec.to(device), device=device
        )


@dataclass(frozen=True, kw_only=True)
class _Networks:
    text_encoder: TextEncoder
    dit: VelocityDiT
    codec: Codec
    device: str
