"""How a recording is made ready: each rule by itself, and the one resampler against librosa's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from audiostory.benchmark.embedders.recordings import Preparation, prepare
from audiostory.sound import Waveform

RATE = 16_000


def stereo(num=1000, rate=RATE):
    rng = np.random.default_rng(0)
    return Waveform(samples=(0.2 * rng.normal(size=(2, num)) + 0.1).astype(np.float32), sample_rate=rate)


def test_the_channel_is_the_mean_of_all_or_the_first():
    waveform = stereo()
    np.testing.assert_allclose(prepare(waveform, Preparation(sample_rate=RATE)), waveform.samples.mean(0), rtol=1e-6)
    first = prepare(waveform, Preparation(sample_rate=RATE, channel="first"))
    np.testing.assert_array_equal(first, waveform.samples[0])


def test_centring_takes_the_mean_level_away():
    assert prepare(stereo(), Preparation(sample_rate=RATE)).mean() == pytest.approx(0.1, abs=0.02)
    assert prepare(stereo(), Preparation(sample_rate=RATE, centred=True)).mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000])
def test_the_resampler_is_librosas_best_known_one(rate):
    librosa = pytest.importorskip("librosa")
    waveform = stereo(3000, rate)
    expected = librosa.resample(waveform.samples.mean(0), orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    np.testing.assert_allclose(prepare(waveform, Preparation(sample_rate=RATE)), expected, atol=1e-6)


def test_the_peak_is_brought_to_its_level_after_resampling():
    made = prepare(stereo(3000, 44_100), Preparation(sample_rate=RATE, peak_db=-1.0))
    assert np.abs(made).max() == pytest.approx(10 ** (-1 / 20))


def test_silence_stays_silence():
    silence = Waveform(samples=np.zeros((1, 500), np.float32), sample_rate=RATE)
    made = prepare(silence, Preparation(sample_rate=RATE, peak_db=-1.0, sixteen_bit=True, centred=True))
    assert not made.any()
    assert len(made) == 500


@given(arrays(np.float32, 64, elements=st.floats(-2, 2, width=32)))
def test_sixteen_bits_are_those_of_a_file(samples):
    made = prepare(Waveform(samples=samples, sample_rate=RATE), Preparation(sample_rate=RATE, sixteen_bit=True))
    whole = (np.clip(samples, -1, 1) * 32767.0).astype(np.int16)
    np.testing.assert_array_equal(np.round(made * 32767).astype(np.int16), whole)


def test_short_clips_are_filled_up_and_longer_ones_left():
    how = Preparation(sample_rate=RATE, shortest=1200)
    assert prepare(stereo(1000), how).shape == (1200,)
    assert not prepare(stereo(1000), how)[1000:].any()
    assert prepare(stereo(1300), how).shape == (1300,)
    assert prepare(stereo(1300), how).dtype == np.float32
