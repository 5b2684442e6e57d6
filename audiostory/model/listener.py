"""Audio in the instruction: what a frozen audio encoder hears becomes tokens that the planner reads as words.

    samples -> windows -> log-mel spectrograms -> AudioEncoder -> frames of features -> ListenerProjector -> tokens

The encoder is Whisper's (SPEC 6), of any size, and its log-mel spectrogram is Whisper's to the rounding, computed for
many windows at once. A window is as long as the encoder was made for; a recording ends in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiostory import sound
from audiostory.sound import Waveform

SAMPLE_RATE = 16000
FFT_SAMPLES, HOP_SAMPLES = 400, 160  # every Whisper's
FRAME_RATE = 50  # of the encoder's features; two frames of the spectrogram make one of them
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """Sizes of an encoder that starts from random weights; the defaults are audiostory-mini's (1 M parameters).

    Whisper large v3 is window_seconds=30, num_mels=128, width=1280, layers=32, heads=20, intermediate=5120.
    """

    window_seconds: int = 10
    num_mels: int = 80
    width: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 512


class AudioEncoder(nn.Module):
    """Whisper's encoder with the spectrogram that it hears. `encoder` is transformers' own class.

    ValueError for one whose windows do not last a whole number of seconds, which no preprocessor_config.json could say.
    """

    sample_rate, frame_rate = SAMPLE_RATE, FRAME_RATE

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        if (positions := encoder.config.max_source_positions) % FRAME_RATE:
            raise ValueError(f"max_source_positions is {positions}, expected {FRAME_RATE} for every second of a window")
        self.encoder = encoder

    @classmethod
    def random(cls, config: AudioEncoderConfig) -> AudioEncoder:
        """Fresh weights from torch's global generator; the positions are Whisper's sinusoids. In eval mode."""
        whisper = WhisperConfig(
            d_model=config.width,
            encoder_layers=config.layers,
            encoder_attention_heads=config.heads,
            encoder_ffn_dim=config.intermediate,
            num_mel_bins=config.num_mels,
            max_source_positions=config.window_seconds * FRAME_RATE,
        )
        return cls(WhisperEncoder(whisper)).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """A Whisper encoder's folder, as transformers writes it: config.json, safetensors, preprocessor_config.json."""
        self.encoder.save_pretrained(str(folder))
        extractor = WhisperFeatureExtractor(feature_size=self.num_mels, chunk_length=self.window_seconds)
        extractor.save_pretrained(str(folder))

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    @property
    def num_mels(self) -> int:
        return self.encoder.config.num_mel_bins

    @property
    def window_seconds(self) -> int:
        return self.encoder.config.max_source_positions // FRAME_RATE

    @property
    def window_samples(self) -> int:
        return self.window_seconds * SAMPLE_RATE

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    def num_windows(self, seconds: float) -> int:
        return max(1, math.ceil(round(seconds * SAMPLE_RATE) / self.window_samples))

    def forward(self, log_mel: Float[Tensor, "N F X"]) -> Float[Tensor, "N T W"]:
        """Features of whole windows, X = 2 T frames of their spectrograms each. With gradient, for pre-training."""
        return self.encoder(log_mel.to(self.dtype)).last_hidden_state

    def log_mel(self, windows: Float[Tensor, "N S"]) -> Float[Tensor, "N F X"]:
        """Spectrograms of whole windows of samples, as WhisperFeatureExtractor makes them."""
        return log_mel(windows, self.num_mels)

    @torch.no_grad()
    def features(self, samples: Float[Tensor, S] | np.ndarray, num_tokens: int) -> Float[Tensor, "n K W"]:
        """What is heard in a recording at SAMPLE_RATE, mono: `num_tokens` means over time for each window of it.

        These are the projector's to the last bit: it begins with the same means and finds nothing left to average.
        """
        windows = self.windows(torch.as_tensor(samples, dtype=torch.float32, device=self.device))
        heard = [self(self.log_mel(some)) for some in windows.split(WINDOWS_AT_ONCE)]
        return F.adaptive_avg_pool1d(torch.cat(heard).mT, num_tokens).mT

    def windows(self, samples: Float[Tensor, S]) -> Float[Tensor, "N window"]:
        """The recording cut into windows, the last one filled up with silence."""
        num_windows = max(1, math.ceil(len(samples) / self.window_samples))
        missing = num_windows * self.window_samples - len(samples)
        return F.pad(samples, (0, missing)).reshape(num_windows, self.window_samples)


def log_mel(windows: Float[Tensor, "N S"], num_mels: int) -> Float[Tensor, "N F X"]:
    """Base-10 logarithms of mel energies, cut 80 dB below each window's loudest and brought to about -1 .. 1.

    It is WhisperFeatureExtractor's computation for all windows in one go and on any device; it pads nothing.
    """
    spectrum = torch.stft(
        windows, FFT_SAMPLES, HOP_SAMPLES, window=_hann(windows.device), pad_mode="reflect", return_complex=True
    )
    power = spectrum[..., :-1].abs().square()  # the last frame is half beyond the end
    mel = torch.clamp(_mel_filters(num_mels, windows.device) @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


@cache
def _hann(device: torch.device) -> Tensor:
    return torch.hann_window(FFT_SAMPLES, device=device)


@cache
def _mel_filters(num_mels: int, device: torch.device) -> Float[Tensor, "F bins"]:
    filters = mel_filter_bank(
        num_frequency_bins=1 + FFT_SAMPLES // 2,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T.copy()).to(device, torch.float32)


class ListenerProjector(ModelMixin, ConfigMixin):
    """Pools a recording's features over time to `num_tokens` means and projects them to the planner's width H.

    The release's: 1500 frames of 1280 features from Whisper large (SPEC 1).
    """

    @register_to_config
    def __init__(self, *, audio_width: int, planner_width: int, num_tokens: int):
        super().__init__()
        self.num_tokens = num_tokens
        self.projector = nn.Sequential(
            nn.Linear(audio_width, planner_width), nn.GELU(), nn.Linear(planner_width, planner_width)
        )

    def forward(self, features: Float[Tensor, "N T W"]) -> Float[Tensor, "N K H"]:
        """Tokens for N windows of T frames each. T need not be a multiple of K: means then overlap by a frame."""
        pooled = F.adaptive_avg_pool1d(features.to(self.dtype).mT, self.num_tokens).mT
        return self.projector(pooled)


Audio = str | Path | Waveform
"""A recording, of any format and rate: its file or its sound."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is to be heard: mono samples at the encoder's rate, and how many tokens they are heard at."""

    samples: Float[np.ndarray, S]
    num_tokens: int


class Listener:
    """Makes a planner's tokens of recordings: `open` looks at one and checks it, `hear` does the work.

    `room` is how many tokens the planner has for a recording. A model that was not taught to listen lacks one part or
    both: its listener takes None, which is heard at no tokens, and refuses everything else.
    """

    def __init__(self, encoder: AudioEncoder | None, projector: ListenerProjector | None, *, room: int):
        self.encoder, self.projector, self.room = encoder, projector, room

    @property
    def max_seconds(self) -> float:
        """The longest recording there is room for; 0 where a part is lacking."""
        if self.encoder is None or self.projector is None:
            return 0.0
        return float(max(0, self.room // self.projector.num_tokens) * self.encoder.window_seconds)

    def open(self, audio: Audio | None) -> Recording:
        """ValueError for a model that cannot listen and for a recording that is empty, damaged or too long."""
        if audio is None:
            return Recording(samples=np.zeros(0, dtype=np.float32), num_tokens=0)
        encoder, projector = self.encoder, self.projector
        if encoder is None or projector is None:
            parts = {"audio_encoder": encoder, "listener_projector": projector}
            lacking = " and no ".join(name for name, part in parts.items() if part is None)
            raise ValueError(
                f"this model cannot listen: it has no {lacking}; give a model that learnt from recordings (with the "
                "released checkpoint, Whisper's folder as audio_encoder)"
            )
        waveform = audio if isinstance(audio, Waveform) else sound.read(audio)
        if not (waveform.num_samples and np.isfinite(waveform.samples).all()):
            raise ValueError("the recording is empty, or holds samples that are not numbers; give another one")
        if waveform.seconds > self.max_seconds:
            raise ValueError(
                f"the recording lasts {waveform.seconds:.1f} s and this model hears at most {self.max_seconds:g} s "
                f"({projector.num_tokens} tokens for every {encoder.window_seconds} s, and the planner has room for "
                f"{self.room}); give its last part"
            )
        samples = sound.resample(waveform, encoder.sample_rate).samples.mean(axis=0)
        num_windows = encoder.num_windows(len(samples) / encoder.sample_rate)
        return Recording(samples=samples, num_tokens=num_windows * projector.num_tokens)

    @torch.no_grad()
    def hear(self, recording: Recording) -> Float[Tensor, "P H"] | None:
        """The tokens of all windows, in order; None for a recording at no tokens."""
        if not recording.num_tokens:
            return None
        assert self.encoder is not None
        assert self.projector is not None
        features = apply_forward_hook(AudioEncoder.features)(  # moves an offloaded encoder to its device first
            self.encoder, recording.samples, self.projector.num_tokens
        )
        return self.projector(features.to(self.projector.device)).flatten(0, 1)
