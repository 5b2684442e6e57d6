"""The ear: Whisper's spectrogram to the rounding, windows, pooling before and after storing, and folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiostory.model import tiny
from audiostory.model.listener import (
    SAMPLE_RATE,
    AudioEncoder,
    AudioEncoderConfig,
    Listener,
    ListenerProjector,
    Recording,
    log_mel,
)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("num_mels", "seconds"), [(80, 10), (128, 30), (80, 1)])
def test_the_spectrogram_is_whispers_for_all_windows_at_once(num_mels, seconds):
    windows = noise(3, seconds * SAMPLE_RATE) * torch.tensor([1.0, 1e-3, 0.0])[:, None]
    extractor = WhisperFeatureExtractor(feature_size=num_mels, chunk_length=seconds)
    theirs = extractor(list(windows.numpy()), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    assert_close(log_mel(windows, num_mels), theirs, rtol=0, atol=1e-5)


def test_a_short_recording_is_filled_up_with_silence_as_whisper_does():
    encoder, samples = tiny.audio_encoder(), noise(7000)
    extractor = WhisperFeatureExtractor(feature_size=encoder.num_mels, chunk_length=1)
    theirs = extractor(samples.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    assert_close(encoder.log_mel(encoder.windows(samples)), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_samples", "num_windows"), [(1, 1), (15999, 1), (16000, 1), (16001, 2), (40000, 3)])
def test_a_recording_takes_as_many_windows_as_it_begins(num_samples, num_windows):
    encoder = tiny.audio_encoder()
    features = encoder.features(noise(num_samples), tiny.NUM_LISTENING)
    assert features.shape == (num_windows, tiny.NUM_LISTENING, encoder.width)
    assert encoder.num_windows(num_samples / SAMPLE_RATE) == num_windows
    assert not features.requires_grad


def test_windows_are_heard_one_by_one():
    encoder, samples = tiny.audio_encoder(), noise(11 * SAMPLE_RATE - 500)
    together = encoder.features(samples, 5)
    alone = torch.cat([encoder.features(window, 5) for window in samples.split(SAMPLE_RATE)])
    assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_samples_may_come_from_numpy():
    encoder, samples = tiny.audio_encoder(), noise(20000)
    assert torch.equal(encoder.features(samples.numpy(), 4), encoder.features(samples, 4))
    assert torch.equal(encoder.features(samples.double().numpy(), 4), encoder.features(samples, 4))


@pytest.mark.parametrize("num_tokens", [4, 7])
def test_features_that_were_pooled_before_storing_give_the_projectors_tokens(num_tokens):
    encoder, samples = tiny.audio_encoder(), noise(SAMPLE_RATE)
    projector = ListenerProjector(audio_width=tiny.AUDIO_WIDTH, planner_width=32, num_tokens=num_tokens)
    frames = encoder(encoder.log_mel(encoder.windows(samples)))
    assert frames.shape == (1, 50, tiny.AUDIO_WIDTH)
    assert torch.equal(projector(encoder.features(samples, num_tokens)), projector(frames))


def test_the_encoder_learns_but_its_positions_rest():
    encoder = tiny.audio_encoder()
    encoder(encoder.log_mel(encoder.windows(noise(SAMPLE_RATE)))).square().mean().backward()
    assert {name for name, one in encoder.named_parameters() if one.grad is None} == {"encoder.embed_positions.weight"}


def test_it_is_whispers_encoder():
    config = AudioEncoderConfig(window_seconds=2, num_mels=8, width=16, layers=2, heads=2, intermediate=24)
    torch.manual_seed(0)
    ours = AudioEncoder.random(config)
    torch.manual_seed(0)
    theirs = WhisperEncoder(
        WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            num_mel_bins=8,
            max_source_positions=100,
        )
    ).eval()
    spectrogram = noise(2, 8, 200)
    assert torch.equal(ours(spectrogram), theirs(spectrogram).last_hidden_state)
    assert (ours.window_seconds, ours.window_samples, ours.width, ours.num_mels) == (2, 32000, 16, 8)


def test_half_precision_hears_nearly_the_same():
    samples = noise(20000)
    whole = tiny.audio_encoder().features(samples, 4)
    half = tiny.audio_encoder().to(torch.bfloat16).features(samples, 4)
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).abs().mean() < 0.03 * whole.abs().mean()


def test_transformers_reads_what_is_saved(tmp_path):
    encoder = tiny.audio_encoder()
    encoder.save_pretrained(tmp_path)
    theirs, extractor = WhisperEncoder.from_pretrained(tmp_path), WhisperFeatureExtractor.from_pretrained(tmp_path)
    samples = noise(SAMPLE_RATE)
    spectrogram = extractor(samples.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    with torch.no_grad():
        frames = theirs(spectrogram).last_hidden_state
        assert_close(frames, encoder(encoder.log_mel(samples[None])), rtol=1e-4, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["chunk_length"] == tiny.WINDOW_SECONDS


def test_windows_of_broken_seconds_are_refused():
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8, max_source_positions=75
    )
    with pytest.raises(ValueError, match="max_source_positions is 75, expected 50 for every second"):
        AudioEncoder(WhisperEncoder(config))


def test_silence_is_heard_as_a_number():
    features = tiny.audio_encoder().features(np.zeros(16000, dtype=np.float32), 4)
    assert features.isfinite().all()


def test_what_the_encoder_hears_goes_to_where_the_projector_is():
    """In training the frozen encoder may lie elsewhere; torch's meta device stands for the other one."""
    projector = ListenerProjector(audio_width=tiny.AUDIO_WIDTH, planner_width=32, num_tokens=4).to("meta")
    listener = Listener(tiny.audio_encoder(), projector, room=100)
    heard = listener.hear(Recording(samples=noise(SAMPLE_RATE).numpy(), num_tokens=4))
    assert heard is not None
    assert (heard.device.type, heard.shape) == ("meta", (4, 32))
