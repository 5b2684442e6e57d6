"""The vocoder front: an exact way there and back, and phases that a network makes frame after frame."""

from __future__ import annotations

import math

import pytest
import torch

from audiostory.model.codec import compress
from audiostory.model.vocoder import FRAME_HOP, NUM_BINS, PHASE_CONTEXT, PhasePredictor, samples_of, spectrum


def tones(num_samples: int, *hertz: float, sample_rate: int = 16000) -> torch.Tensor:
    """[1 W]: steady tones, each with a phase of its own."""
    time = torch.arange(num_samples) / sample_rate
    return torch.stack([0.2 * torch.sin(2 * math.pi * f * time + f) for f in hertz]).sum(0)[None]


@pytest.fixture(scope="module")
def taught() -> PhasePredictor:
    """A minute of a processor would teach it all sounds; a few steps teach it steady tones."""
    torch.manual_seed(0)
    predictor = PhasePredictor(channels=8)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    for step in range(120):
        truth = spectrum(tones(16 * FRAME_HOP, *(torch.rand(4, generator=_seeded(step)) * 3000 + 200).tolist()))
        loss = predictor.loss(compress(truth.abs()), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return predictor


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 40])
def test_the_spectrum_has_an_exact_inverse(num_frames: int):
    samples = torch.randn(2, num_frames * FRAME_HOP, generator=_seeded(0))
    found = spectrum(samples)
    assert found.shape == (2, NUM_BINS, num_frames)
    torch.testing.assert_close(samples_of(found), samples, atol=1e-5, rtol=0)


def test_a_steady_tone_has_one_phase_in_all_bins_that_hear_it():
    found = spectrum(tones(10 * FRAME_HOP, 1010.0))[0, :, 5]
    heard = found[found.abs() > 0.2 * found.abs().max()]
    assert len(heard) >= 3
    torch.testing.assert_close(heard.angle(), heard.angle()[:1].expand_as(heard), atol=0.02, rtol=0)


@torch.no_grad()
def test_phases_made_from_magnitudes_alone_keep_a_tone_a_tone(taught: PhasePredictor):
    """Chance phases scatter a tone over the bins of a long frame; those of the network leave it at its frequency."""

    def share_at_the_tones(samples: torch.Tensor) -> float:
        long = torch.fft.rfft(samples[0, -8000:] * torch.hann_window(8000)).abs().square()  # 2 Hz per bin
        return float(sum(long[round(f / 2) - 3 : round(f / 2) + 4].sum() for f in (523.0, 1377.0)) / long.sum())

    truth = spectrum(tones(16000, 523.0, 1377.0))
    made = samples_of(truth.abs() * taught.directions(compress(truth.abs())))
    chance = torch.polar(torch.ones(truth.shape), 2 * math.pi * torch.rand(truth.shape, generator=_seeded(0)))
    assert share_at_the_tones(made) > 0.6
    assert share_at_the_tones(samples_of(truth.abs() * chance)) < 0.3


def test_teaching_lowers_the_phase_loss_far_below_ignorance(taught: PhasePredictor):
    truth = spectrum(tones(32 * FRAME_HOP, 700.0, 2000.0))
    frames = compress(truth.abs())
    assert taught.loss(frames, truth) < 0.4
    assert PhasePredictor().loss(frames, truth) > 0.8


def test_the_phase_loss_reaches_every_weight():
    predictor = PhasePredictor()
    truth = spectrum(tones(8 * FRAME_HOP, 440.0))
    predictor.loss(compress(truth.abs()), truth).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in predictor.parameters())


def test_silence_has_no_phase_loss_and_stays_silent():
    predictor = PhasePredictor()
    truth = spectrum(torch.zeros(1, 8 * FRAME_HOP))
    frames = compress(truth.abs())
    assert predictor.loss(frames, truth).item() == 0
    assert samples_of(truth.abs() * predictor.directions(frames)).abs().max() == 0


@torch.no_grad()
def test_directions_have_length_one_and_are_the_same_in_every_batch(taught: PhasePredictor):
    frames = torch.randn(2, NUM_BINS, 12, generator=_seeded(0))
    both = taught.directions(frames)
    torch.testing.assert_close(both.abs(), torch.ones(both.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(taught.directions(frames[1:]), both[1:], atol=1e-3, rtol=0)


@torch.no_grad()
def test_a_phase_depends_on_no_more_than_its_context_ahead(taught: PhasePredictor):
    frames = torch.randn(1, NUM_BINS, 30, generator=_seeded(0))
    moved = frames.clone()
    moved[..., 20:] += 1
    ours, theirs = (taught.directions(f) for f in (frames, moved))
    in_network = PHASE_CONTEXT - 2  # the other two are the frames that overlap a sample
    torch.testing.assert_close(theirs[..., : 20 - in_network], ours[..., : 20 - in_network], atol=1e-4, rtol=0)
    assert (theirs[..., 20 - in_network] - ours[..., 20 - in_network]).abs().max() > 1e-3
