"""The codec: sound to latents and back. It ends a story, and it begins a training corpus (latents are made once).

A diffusers AutoencoderOobleck does the work, behind one of three fronts. The waveform front gives it the samples, as
the released system does. The other two give it compressed magnitudes of a short-time Fourier transform, and learn in
minutes on a CPU what a waveform codec needs a GPU for: the spectrogram front finds the phase again by fast Griffin-Lim,
the vocoder front has a network make it (vocoder.py).
Outside this file latents are [S T Z] and normalised per channel; the Oobleck's own are [S Z T] and raw.

The Oobleck is weight-normalised in the old way (weight_g, weight_v), so released files load strictly into `codec.vae`.
Therefore `copy.deepcopy` of a codec fails: build another from `codec.config` and load the state dict.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from diffusers import AutoencoderOobleck
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution, Snake1d
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Complex, Float
from torch import Tensor, nn

from audiostory.model import vocoder
from audiostory.model.inputs import Losses, WaveformBatch

# The spectrogram front: 32 ms windows every 10 ms at 16 kHz; without the Nyquist bin the bins are a round number.
N_FFT, FRAME_HOP, NUM_BINS = 512, 160, 256
EXPONENT, GAIN, SHIFT, FLOOR = 0.35, 1.5, 0.3, 1e-6  # compressed = GAIN * (magnitude + FLOOR)**EXPONENT - SHIFT
GRIFFIN_LIM_ITERATIONS, MOMENTUM = 40, 0.99

# What the Oobleck sees of each front: samples per step, and channels; None for those of the sound.
FRONTS = {
    "waveform": (1, None),
    "spectrogram": (FRAME_HOP, NUM_BINS),
    "vocoder": (vocoder.FRAME_HOP, vocoder.NUM_BINS),
}
PHASE_SHARE = 4  # the phase is learnt from one clip in so many of a batch: it sees 257 examples per frame

LOSS_WINDOWS = (2048, 512, 128)  # of the waveform front's spectral losses, in samples


class Codec(ModelMixin, ConfigMixin):
    """Samples [S A W] <-> latents [S T Z]; T = num_frames(W), `hop` samples per latent frame.

    Args:
        front: "waveform", or "spectrogram" or "vocoder" (mono; the Oobleck then works at sample_rate / 160 frames per
            second).
        downsampling_ratios: even strides; their product is the hop, in samples or in spectrogram frames.
        encoder_hidden_size: twice `latent_channels`, because the encoder's last layer gives a mean and a scale.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        front: str = "waveform",
        sample_rate: int = 44100,
        audio_channels: int = 2,
        encoder_hidden_size: int = 128,
        downsampling_ratios: Sequence[int] = (2, 4, 4, 8, 8),
        channel_multiples: Sequence[int] = (1, 2, 4, 8, 16),
        decoder_channels: int = 128,
        latent_channels: int = 64,
    ):
        super().__init__()
        if front not in FRONTS:
            raise ValueError(f"front is one of {', '.join(FRONTS)}, got {front!r}")
        if front != "waveform" and audio_channels != 1:
            raise ValueError(f"the {front} front is mono, got audio_channels={audio_channels}; mix the sound down")
        frame_hop, num_bins = FRONTS[front]
        self.front = front
        self.sample_rate = sample_rate
        self.hop = frame_hop * math.prod(downsampling_ratios)
        self.frame_rate = sample_rate / self.hop
        self.context_frames = _context_frames(downsampling_ratios)
        if front == "vocoder":
            self.context_frames += math.ceil(vocoder.PHASE_CONTEXT / math.prod(downsampling_ratios))
        with warnings.catch_warnings():  # that torch deprecates this weight norm is no news to our users
            warnings.simplefilter("ignore", FutureWarning)
            self.vae = AutoencoderOobleck(
                encoder_hidden_size=encoder_hidden_size,
                downsampling_ratios=list(downsampling_ratios),
                channel_multiples=list(channel_multiples),
                decoder_channels=decoder_channels,
                decoder_input_channels=latent_channels,
                audio_channels=num_bins or audio_channels,
                sampling_rate=sample_rate // frame_hop,
            )
        for module in self.vae.modules():
            if isinstance(module, Snake1d):
                module.__class__ = LeanSnake
        self.phase = vocoder.PhasePredictor() if front == "vocoder" else None
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def num_frames(self, num_samples: int) -> int:
        """Latent frames that hold `num_samples`; the last one may be partly silence."""
        return math.ceil(num_samples / self.hop)

    @apply_forward_hook
    def encode(
        self, samples: Float[Tensor, "S A W"], sample: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "S T Z"]:
        """Normalised latents: the posterior's mean, or with `sample` a draw from it. Silence fills the last frame."""
        posterior = self.posterior(samples)
        raw = posterior.sample(generator) if sample else posterior.mode()
        return (raw.mT - self.latent_mean) / self.latent_std

    @apply_forward_hook
    def decode(
        self, latents: Float[Tensor, "S T Z"], num_samples: int | None = None, max_frames: int | None = None
    ) -> Float[Tensor, "S A W"]:
        """Float32 samples: all T * hop of them, or the first `num_samples` at the cost of little more than those.

        A shortened decode takes all latents that reach into the kept samples (SPEC 7: 10 more at full size), so the
        Oobleck's output there is that of a full decode, and so is the sound, but for the spectrogram front: it keeps
        the magnitudes and finds a phase of its own, since Griffin-Lim looks at the whole clip.

        `max_frames` bounds the memory: the Oobleck decodes pieces of so many latents, each with `context_frames` more
        on either side, and what it makes of them is what it makes of the whole. Phases are found for the whole clip.
        """
        whole = latents.shape[1] * self.hop
        num_samples = whole if num_samples is None else num_samples
        if not 0 < num_samples <= whole:
            raise ValueError(f"{latents.shape[1]} latent frames hold {whole} samples, {num_samples} were asked for")
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {max_frames}; 64 is usual, None decodes all at once")
        kept = latents[:, : self.num_frames(num_samples) + self.context_frames]
        raw = (kept * self.latent_std + self.latent_mean).mT
        return self._samples(self._decoded(raw.to(self.dtype), max_frames or raw.shape[-1]))[..., :num_samples]

    def posterior(self, samples: Float[Tensor, "S A W"]) -> OobleckDiagonalGaussianDistribution:
        """Over raw latents, channels first, float32: .mean and .std [S Z T], .sample(), .mode(), .kl()."""
        return self._posterior(self._frames(samples))

    @torch.no_grad()
    def fit_normalisation(self, latents: Float[Tensor, "S T Z"]) -> None:
        """Make latents like these, as `encode` gives them now, have mean 0 and standard deviation 1 per channel."""
        raw = latents.flatten(0, 1).float() * self.latent_std + self.latent_mean
        self.latent_mean.copy_(raw.mean(0))
        self.latent_std.copy_(raw.std(0))

    def losses(self, batch: WaveformBatch, generator: torch.Generator | None = None) -> Losses:
        """One pass through the bottleneck, with a draw from the posterior; float32 under autocast too.

        All fronts: kl, summed over channels. Waveform front: waveform_l1, stft_l1 (log magnitudes) and
        stft_convergence, means over LOSS_WINDOWS. The others, on compressed frames: reconstruction_l1, _mse and
        _relative. Vocoder front: phase too, from which only `phase` learns, the magnitudes not. The relative ones
        divide by the whole batch's energy: per clip, quiet clips would rule the gradient.
        """
        frames = self._frames(batch.samples)
        posterior = self._posterior(frames)
        rebuilt = self.vae.decoder(posterior.sample(generator).to(self.dtype)).float()
        named = {}
        if self.phase is not None:
            chosen = slice(math.ceil(len(frames) / PHASE_SHARE))
            truth = vocoder.spectrum(self._padded(batch.samples)[chosen, 0])
            named["phase"] = self.phase.loss(rebuilt[chosen].detach().to(self.dtype), truth)
        parts = _waveform_losses if self.front == "waveform" else _frame_losses
        with torch.autocast(frames.device.type, enabled=False):
            return Losses(named={**parts(rebuilt, frames.float()), **named, "kl": posterior.kl()})

    def forward(self, batch: WaveformBatch, generator: torch.Generator | None = None) -> Losses:
        """`losses`, under the name that wrappers for distributed training hook into."""
        return self.losses(batch, generator)

    def compilable_blocks(self) -> list[nn.Module]:
        return [self.vae.encoder, self.vae.decoder]

    def _frames(self, samples: Float[Tensor, "S A W"]) -> Float[Tensor, "S _ _"]:
        """What the Oobleck sees: the samples or their compressed spectrogram, filled up to whole latent frames."""
        padded = self._padded(samples)
        if self.front == "waveform":
            return padded
        return compress((stft if self.front == "spectrogram" else vocoder.spectrum)(padded[:, 0]).abs())

    def _decoded(self, raw: Float[Tensor, "S Z T"], max_frames: int) -> Float[Tensor, "S _ _"]:
        """What the Oobleck makes of raw latents, a piece of them at a time."""
        context, rate = self.context_frames, self.hop // FRONTS[self.front][0]  # rate: outputs per latent
        pieces = []
        for start in range(0, raw.shape[-1], max_frames):
            first = max(start - context, 0)
            made = self.vae.decoder(raw[..., first : start + max_frames + context].contiguous())
            pieces.append(made[..., (start - first) * rate : (start - first + max_frames) * rate].float())
        return torch.cat(pieces, dim=-1)

    def _samples(self, frames: Float[Tensor, "S _ _"]) -> Float[Tensor, "S A W"]:
        """The way back."""
        if self.front == "waveform":
            return frames
        if self.phase is None:
            return griffin_lim(expand(frames)).unsqueeze(1)
        directions = self.phase.directions(frames.to(self.dtype))
        return vocoder.samples_of(expand(frames) * directions).unsqueeze(1)

    def _padded(self, samples: Float[Tensor, "S A W"]) -> Float[Tensor, "S A _"]:
        return nn.functional.pad(samples, (0, self.num_frames(samples.shape[-1]) * self.hop - samples.shape[-1]))

    def _posterior(self, frames: Tensor) -> OobleckDiagonalGaussianDistribution:
        return OobleckDiagonalGaussianDistribution(self.vae.encoder(frames.to(self.dtype)).float())


class LeanSnake(Snake1d):
    """x + sin(alpha x)^2 / beta, to the last bit as diffusers computes it, but without gradients in one new tensor
    instead of five: memory is what the activation costs, and it was half of a decode (docs/LOG.md)."""

    def forward(self, hidden_states: Float[Tensor, "S D T"]) -> Float[Tensor, "S D T"]:
        if torch.is_grad_enabled():
            return super().forward(hidden_states)
        alpha, beta = (value.exp() if self.logscale else value for value in (self.alpha, self.beta))
        lifted = alpha * hidden_states
        return lifted.sin_().square_().mul_((beta + 1e-9).reciprocal()).add_(hidden_states)


def compress(magnitude: Tensor) -> Tensor:
    """Power compression: quiet partials come near loud ones, and a network sees values of order 1."""
    return GAIN * (magnitude + FLOOR) ** EXPONENT - SHIFT


def expand(frames: Tensor) -> Tensor:
    """The magnitude again; what lies below silence is silence."""
    return (((frames + SHIFT) / GAIN).clamp_min(0) ** (1 / EXPONENT) - FLOOR).clamp_min(0)


def stft(samples: Float[Tensor, "S W"]) -> Complex[Tensor, "S 256 T"]:
    """The lowest 256 bins of frames centred on samples 0, 160, 320 ...; the one behind the last sample is left out."""
    with torch.autocast(samples.device.type, enabled=False):
        window = torch.hann_window(N_FFT, device=samples.device)
        spectrum = torch.stft(samples.float(), N_FFT, FRAME_HOP, window=window, return_complex=True)
    return spectrum[:, :NUM_BINS, : samples.shape[-1] // FRAME_HOP]


def istft(spectrum: Complex[Tensor, "S 256 T"]) -> Float[Tensor, "S W"]:
    """The samples whose `stft` is nearest to `spectrum`."""
    window = torch.hann_window(N_FFT, device=spectrum.device)
    whole = nn.functional.pad(spectrum, (0, 0, 0, N_FFT // 2 + 1 - NUM_BINS))
    return torch.istft(whole, N_FFT, FRAME_HOP, window=window, length=spectrum.shape[-1] * FRAME_HOP)


@torch.no_grad()
def griffin_lim(magnitude: Float[Tensor, "S 256 T"]) -> Float[Tensor, "S W"]:
    """Samples whose `stft` has nearly this magnitude: alternating projections with momentum (Perraudin et al. 2013).

    The first phase is noise from a fixed seed, alike for every clip, so that the result depends on the magnitude alone.
    """
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator).to(magnitude.device)
    phase, previous = torch.polar(torch.ones_like(angle), angle), 0
    for _ in range(GRIFFIN_LIM_ITERATIONS):
        rebuilt = stft(istft(magnitude * phase))
        ahead = rebuilt - MOMENTUM / (1 + MOMENTUM) * previous
        phase, previous = ahead / ahead.abs().clamp_min(1e-16), rebuilt
    return istft(magnitude * phase)


def _frame_losses(rebuilt: Tensor, frames: Tensor) -> dict[str, Tensor]:
    mse = nn.functional.mse_loss(rebuilt, frames)
    return {
        "reconstruction_l1": nn.functional.l1_loss(rebuilt, frames),
        "reconstruction_mse": mse,
        "reconstruction_relative": mse / frames.square().mean(),
    }


def _waveform_losses(rebuilt: Float[Tensor, "S A W"], samples: Float[Tensor, "S A W"]) -> dict[str, Tensor]:
    windows = [n_fft for n_fft in LOSS_WINDOWS if n_fft <= samples.shape[-1]]
    pairs = [(_magnitude(rebuilt, n_fft), _magnitude(samples, n_fft)) for n_fft in windows]
    log_l1 = [nn.functional.l1_loss(ours.add(1e-5).log(), theirs.add(1e-5).log()) for ours, theirs in pairs]
    convergence = [(ours - theirs).norm() / theirs.norm().clamp_min(1e-5) for ours, theirs in pairs]
    return {
        "waveform_l1": nn.functional.l1_loss(rebuilt, samples),
        "stft_l1": torch.stack(log_l1).mean(),
        "stft_convergence": torch.stack(convergence).mean(),
    }


def _magnitude(samples: Float[Tensor, "S A W"], n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(samples.flatten(0, 1), n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
    return spectrum.abs()


def _context_frames(downsampling_ratios: Sequence[int]) -> int:
    """How many latent frames on either side reach into one output of the decoder.

    3 for the first convolution (width 7); per block 1 frame for the transposed one and 3 * (1 + 3 + 9) of its outputs
    for the dilated ones; 3 outputs for the last. 10 for the released strides (SPEC 7 measured 9.27), 35 for (2, 2).
    """
    reach, rate = 3.0, 1
    for stride in reversed(downsampling_ratios):
        reach += 1 / rate
        rate *= stride
        reach += 3 * (1 + 3 + 9) / rate
    return math.ceil(reach + 3 / rate)
