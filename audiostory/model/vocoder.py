"""Samples from magnitudes by a learnt phase: the vocoder front of the codec (codec.py) in one piece.

A sound is cut into 32 ms frames, one every 10 ms, and each frame into 257 partials with a magnitude and a phase. The
codec carries the magnitudes. A small network looks at them and says how the phases of one frame follow from those of
the frame before, as a phase vocoder's oscillators turn on, each at its own frequency. Where it cannot know, as in hiss,
it says so by the length of its answer, and chance fills up the rest: tones stay tones, and noise stays noise.
The phase is thus made, not transmitted: a decoded sound is like the one that went in, but not equal sample by sample.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

WINDOW, FRAME_HOP = 512, 160  # samples
NUM_BINS = WINDOW // 2 + 1
EDGE = (WINDOW - FRAME_HOP) // 2  # samples by which the first and the last frame reach beyond the sound

REACH = 1  # bins on either side whose last phase tells of a bin's next one: a tone fills about three bins
PHASE_CONTEXT = 5  # frames ahead that one sample depends on: 3 in the network, 2 that overlap it


def spectrum(samples: Float[Tensor, "S W"]) -> Complex[Tensor, "S 257 T"]:
    """T = W / 160 frames, centred on samples 80, 240 ...; phases are those at a frame's centre. Float32 always."""
    with torch.autocast(samples.device.type, enabled=False):
        frames = nn.functional.pad(samples.float(), (EDGE, EDGE)).unfold(-1, WINDOW, FRAME_HOP)
        return (torch.fft.rfft(frames * _window(samples)) * _centre(samples)).mT


def samples_of(spectrum: Complex[Tensor, "S 257 T"]) -> Float[Tensor, "S W"]:
    """The inverse of `spectrum`, exact but for rounding; of any other spectrum the samples that come nearest to it."""
    frames = torch.fft.irfft(spectrum.mT * _centre(spectrum.real), n=WINDOW)
    window = _window(frames)
    return _overlap(frames * window) / _overlap(window.square().expand(1, frames.shape[1], WINDOW))


class PhasePredictor(nn.Module):
    """From compressed magnitudes to the turning of phases: complex factors for a bin and its neighbours in the frame
    before, and one term of its own, [S 257 T] each, stacked in dimension 1.

    The same small convolutions serve all bins, as a tone between two bins turns alike wherever they lie; the bin's
    place is told too, for the ends. A factor's angle says how far a phase turns beyond its bin's own frequency.
    """

    def __init__(self, channels: int = 16):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(2, channels, (7, 3), padding=(3, 1)),
            nn.GELU(),
            nn.Conv2d(channels, channels, (5, 3), padding=(2, 1)),
            nn.GELU(),
            nn.Conv2d(channels, channels, (5, 3), padding=(2, 1)),
            nn.GELU(),
            nn.Conv2d(channels, 2 * (2 * REACH + 2), 1),
        )

    def forward(self, frames: Float[Tensor, "S 257 T"]) -> Complex[Tensor, "S R 257 T"]:
        place = torch.linspace(-1, 1, NUM_BINS, device=frames.device, dtype=frames.dtype)
        maps = torch.stack([frames, place[:, None].expand_as(frames)], dim=1)
        maps = maps.contiguous(memory_format=torch.channels_last)  # several times faster on CPUs
        real, imaginary = self.convolutions(maps).float().chunk(2, dim=1)
        return torch.complex(real.contiguous(), imaginary.contiguous())

    def loss(self, frames: Float[Tensor, "S 257 T"], truth: Complex[Tensor, "S 257 T"]) -> Float[Tensor, ""]:
        """Squared error of the next direction, given the true ones of the frame before; strong partials count more.

        1 for a network that knows nothing and says so, 0 for one that knows all.
        """
        directions = _unit(truth)
        before = nn.functional.pad(directions, (1, 0))[..., :-1]
        weight = truth.abs().pow(0.7)
        error = (_follow(self(frames), before) - directions).abs().square()
        return (weight * error).sum() / weight.sum().clamp_min(1e-6)

    @torch.no_grad()
    def directions(self, frames: Float[Tensor, "S 257 T"]) -> Complex[Tensor, "S 257 T"]:
        """Phases as complex numbers of length 1, frame after frame from silence.

        Chance comes from a fixed seed and is alike for every clip, so that a sound depends on its magnitudes alone, and
        a frame on none after those that the network sees.
        """
        factors = self(frames)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(frames.shape[-1], 2, NUM_BINS + 2, 1, generator=generator)
        # In a Hann window neighbouring bins hear much the same hiss.
        drawn = drawn[:, :, 1:-1] + (drawn[:, :, :-2] + drawn[:, :, 2:]) / 2
        chance = torch.complex(drawn[:, 0], drawn[:, 1]).to(factors.device) / math.sqrt(3)  # of mean square 1
        now, made = torch.zeros_like(factors[:, 0, :, :1]), []
        for t in range(frames.shape[-1]):
            expected = _follow(factors[..., t : t + 1], now)
            unknown = (1 - expected.abs().square()).clamp_min(0).sqrt()
            now = _unit(expected + unknown * chance[t])
            made.append(now)
        return torch.cat(made, dim=-1)


def _follow(factors: Complex[Tensor, "S R 257 T"], before: Complex[Tensor, "S 257 T"]) -> Complex[Tensor, "S 257 T"]:
    """The directions that come after `before`: a weighted sum over neighbours, turned on, and a term of its own."""
    padded = nn.functional.pad(before, (0, 0, REACH, REACH))
    neighbours = [padded[:, i : i + NUM_BINS] * factors[:, i] for i in range(2 * REACH + 1)]
    steps = torch.arange(NUM_BINS, device=before.device) * FRAME_HOP % WINDOW  # how far a bin's own frequency turns on
    own_turn = torch.polar(torch.ones(NUM_BINS, device=before.device), steps * (2 * math.pi / WINDOW))
    return torch.stack(neighbours).sum(0) * own_turn[:, None] + factors[:, -1]


def _unit(values: Tensor) -> Tensor:
    return values / values.abs().clamp_min(1e-9)


def _window(like: Tensor) -> Float[Tensor, " 512"]:
    return torch.hann_window(WINDOW, device=like.device)


def _centre(like: Tensor) -> Float[Tensor, " 257"]:
    """Moves the phases' origin from a frame's first sample to its middle one, or back: every other sign."""
    return 1.0 - 2.0 * (torch.arange(NUM_BINS, device=like.device) % 2)


def _overlap(frames: Float[Tensor, "S T 512"]) -> Float[Tensor, "S W"]:
    """Adds frames up where they overlap, and leaves out what reaches beyond the sound."""
    width = (frames.shape[1] - 1) * FRAME_HOP + WINDOW
    added = nn.functional.fold(frames.mT, (1, width), (1, WINDOW), stride=(1, FRAME_HOP))
    return added[:, 0, 0, EDGE:-EDGE]
