"""True clips through a codec: the codec's own answer, as long as the clip was, and only what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from systems.cases import RATE

from audiostory import sound
from audiostory.model import tiny
from audiostory.sound import Waveform
from audiostory.systems.codec import through_codec


@pytest.fixture
def clips(tmp_path):
    pairs = []
    for index, (channels, rate) in enumerate([(1, RATE), (2, 2 * RATE)]):
        samples = 0.1 * np.random.default_rng(index).standard_normal((channels, 3 * rate // 2))
        sound.write(tmp_path / f"{index}.wav", Waveform(samples=samples, sample_rate=rate))
        pairs.append((tmp_path / f"{index}.wav", tmp_path / "coded" / f"{index}.wav"))
    return pairs


def test_a_clip_is_encoded_and_decoded(text_to_audio, clips):
    through_codec(text_to_audio, clips, device="cpu")
    coded = [sound.read(target) for _, target in clips]
    assert [(clip.sample_rate, clip.num_channels, clip.num_samples) for clip in coded] == [(RATE, 1, 1200)] * 2
    codec = tiny.codec(front="waveform").eval()
    with torch.no_grad():
        latents = codec.encode(torch.from_numpy(sound.read(clips[0][0]).samples)[None])
        expected = codec.decode(latents, num_samples=1200)[0]
    torch.testing.assert_close(torch.from_numpy(coded[0].samples), expected, rtol=0, atol=1e-6)


def test_what_is_there_stays_and_then_no_codec_is_needed(text_to_audio, clips, tmp_path):
    through_codec(text_to_audio, clips[:1], device="cpu")
    before = clips[0][1].stat().st_mtime_ns
    through_codec(text_to_audio, clips, device="cpu")
    assert clips[0][1].stat().st_mtime_ns == before
    assert clips[1][1].is_file()
    through_codec(tmp_path / "nowhere", clips)


def test_a_folder_without_a_codec_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match="holds no codec"):
        through_codec(tmp_path, clips, device="cpu")
