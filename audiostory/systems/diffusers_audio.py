"""AudioLDM2 and Stable Audio Open as diffusers has them, from a folder on this machine.

A downloaded folder must not choose the code that runs: its index is compared with the classes that these two pipelines
are made of, nothing but safetensors is read, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiostory import timeline
from audiostory.pipeline import SHORTEST_CLIP_SECONDS
from audiostory.sound import Waveform
from audiostory.story_audio import Rendering
from audiostory.systems.models import checked_device, fingerprint
from audiostory.weights.files import read_json, short

INDEX = "model_index.json"
_T5 = {"transformers": ("T5Tokenizer", "T5TokenizerFast")}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """diffusers' own steps and guidance, and the classes that a component may have, by their library."""

    steps: int
    guidance: float
    classes: Mapping[str, Mapping[str, Sequence[str]]]


KINDS = {
    "AudioLDM2Pipeline": _Kind(
        steps=200,
        guidance=3.5,
        classes={
            "vae": {"diffusers": ("AutoencoderKL",)},
            "text_encoder": {"transformers": ("ClapModel",)},
            "text_encoder_2": {"transformers": ("T5EncoderModel",)},
            "projection_model": {"audioldm2": ("AudioLDM2ProjectionModel",)},
            "language_model": {"transformers": ("GPT2Model", "GPT2LMHeadModel")},
            "tokenizer": {"transformers": ("RobertaTokenizer", "RobertaTokenizerFast")},
            "tokenizer_2": _T5,
            "feature_extractor": {"transformers": ("ClapFeatureExtractor",)},
            "unet": {"audioldm2": ("AudioLDM2UNet2DConditionModel",)},
            "scheduler": {"diffusers": ("DDIMScheduler", "LMSDiscreteScheduler", "PNDMScheduler")},
            "vocoder": {"transformers": ("SpeechT5HifiGan",)},
        },
    ),
    "StableAudioPipeline": _Kind(
        steps=100,
        guidance=7.0,
        classes={
            "vae": {"diffusers": ("AutoencoderOobleck",)},
            "text_encoder": {"transformers": ("T5EncoderModel",)},
            "projection_model": {"stable_audio": ("StableAudioProjectionModel",)},
            "tokenizer": _T5,
            "transformer": {"diffusers": ("StableAudioDiTModel",)},
            "scheduler": {"diffusers": ("CosineDPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler")},
        },
    ),
}


class DiffusersTextToAudio:
    """A text-to-audio pipeline that diffusers saved in `folder`; what is None is diffusers' own choice.

    It is loaded when first needed. ValueError for a folder that holds neither of the two, or classes that they are not
    made of; OSError, from diffusers, for one that is not whole or has no safetensors.
    """

    def __init__(
        self, folder: Path, *, device: str | None = None, steps: int | None = None, guidance: float | None = None
    ) -> None:
        self._name = _checked_index(folder)
        kind = KINDS[self._name]
        self.steps = kind.steps if steps is None else steps
        self.guidance = kind.guidance if guidance is None else guidance
        Rendering(seed=0, steps=self.steps, guidance=self.guidance, crossfade_seconds=0.0)  # says now what is wrong
        self._folder, self._device = folder, device
        self.settings: dict[str, Any] = {
            "text_to_audio": self._name,
            "text_to_audio_sha256": fingerprint(folder),
            "steps": self.steps,
            "guidance": self.guidance,
        }

    @property
    def longest_seconds(self) -> float:
        """What diffusers makes when no length is asked: as long as the clips that it was trained on."""
        pipeline = self._pipeline
        if self._name == "StableAudioPipeline":
            return pipeline.transformer.config.sample_size * pipeline.vae.hop_length / self._sample_rate
        hop = np.prod(pipeline.vocoder.config.upsample_rates)
        return float(pipeline.unet.config.sample_size * pipeline.vae_scale_factor * hop / self._sample_rate)

    def sounds(self, captions: Sequence[str], seconds: Sequence[float], seeds: Sequence[int]) -> list[Waveform]:
        """A clip per caption, of its seconds to the sample, one by one: either pipeline takes one length at a time."""
        return [self._sound(*one) for one in zip(captions, seconds, seeds, strict=True)]

    def _sound(self, caption: str, seconds: float, seed: int) -> Waveform:
        told = max(seconds, SHORTEST_CLIP_SECONDS)
        length = "audio_end_in_s" if self._name == "StableAudioPipeline" else "audio_length_in_s"
        audios = self._pipeline(
            caption,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(seed),  # on the CPU, so that every machine draws the same
            output_type="np",
            **{length: min(told, self.longest_seconds)},
        ).audios
        waveform = Waveform(samples=audios[0], sample_rate=self._sample_rate)  # AudioLDM2's is mono, without channels
        return timeline.fit(waveform, timeline.place(seconds, self._sample_rate))

    @property
    def _sample_rate(self) -> int:
        stable = self._name == "StableAudioPipeline"
        return (self._pipeline.vae if stable else self._pipeline.vocoder).config.sampling_rate

    @cached_property
    def _pipeline(self) -> Any:
        from diffusers import AudioLDM2Pipeline, StableAudioPipeline
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        device = checked_device(self._device)
        diffusers_logging.disable_progress_bar()  # the bars that follow are ours
        transformers_logging.disable_progress_bar()
        local: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        parts: dict[str, Any] = {}
        if self._name == "AudioLDM2Pipeline":
            from transformers import GPT2LMHeadModel

            # The published index names GPT2Model, which in transformers 5 lacks what diffusers calls to let it go on.
            parts["language_model"] = GPT2LMHeadModel.from_pretrained(self._folder / "language_model", **local)
        cls = {"AudioLDM2Pipeline": AudioLDM2Pipeline, "StableAudioPipeline": StableAudioPipeline}[self._name]
        try:
            pipeline = cls.from_pretrained(self._folder, **local, **parts)
        except ImportError as error:  # Stable Audio's scheduler needs torchsde
            raise ValueError(
                f"{self._folder} needs a package that is not here: {' '.join(str(error).split())}"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def _checked_index(folder: Path) -> str:
    """The name of the pipeline, one of KINDS."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected a folder of {' or '.join(KINDS)}, as diffusers saves it")
    index = read_json(path)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"{path} describes a {short(name)}, expected {' or '.join(KINDS)}; check the path")
    expected = KINDS[name].classes
    named = {key: value for key, value in index.items() if not key.startswith("_")}
    for key in {**expected, **named}:
        library, cls = value if isinstance(value := named.get(key), list) and len(value) == 2 else (None, None)
        known = expected.get(key, {})
        if not isinstance(library, str) or cls not in known.get(library, ()):
            allowed = [f"{library} {one}" for library, classes in known.items() for one in classes]
            raise ValueError(
                f"{path}: {key} is {short(named.get(key))}, expected {' or '.join(allowed) or 'nothing of that name'}; "
                "other classes are never loaded"
            )
    if code := sorted(folder.rglob("*.py")):
        raise ValueError(f"{code[0]} is code, which is never run; remove it, or take the folder from its authors")
    return name
