"""Joining and writing a story that is not finished yet."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audiostory import timeline
from audiostory.sound import Waveform
from audiostory.streaming import Joiner, to_pcm, to_wav

RATE = 100


def clips_of(seconds: list[float], fade: float, channels: int = 2) -> tuple[list[Waveform], list[int]]:
    clips = timeline.cut(seconds, max_clip_seconds=4.0, crossfade_seconds=fade)
    rng = np.random.default_rng(0)
    waveforms = [
        Waveform(samples=rng.standard_normal((channels, clip.num_samples(RATE))), sample_rate=RATE) for clip in clips
    ]
    return waveforms, [timeline.place(clip.start, RATE) for clip in clips]


@given(st.lists(st.integers(3, 900), min_size=1, max_size=6), st.floats(0, 2))
def test_clips_joined_one_at_a_time_are_the_clips_joined_at_once(hundredths, fade):
    clips, begins = clips_of([length / 100 for length in hundredths], fade)
    joiner = Joiner()
    until = [*begins[1:], begins[-1] + clips[-1].num_samples]
    parts = [joiner.add(clip, end - begin) for clip, begin, end in zip(clips, begins, until, strict=True)]
    joined = np.concatenate([part.samples for part in parts], axis=1)
    assert joined.tobytes() == timeline.join(clips, begins).samples.tobytes()
    assert joiner.end().num_samples == 0


def test_what_is_left_of_the_last_clip_fades_out():
    joiner = Joiner()
    joiner.add(Waveform(samples=np.ones((1, 150)), sample_rate=RATE), 100)
    np.testing.assert_allclose(joiner.end().samples[0], np.linspace(1, 0, 50), atol=1e-6)


def test_a_wav_grows_with_every_sound_and_is_whole_when_it_is_stopped(tmp_path):
    path, sound = tmp_path / "deep" / "story.wav", clips_of([1.0], 0)[0][0]
    sizes = []

    def stopped() -> None:
        with to_wav(path, RATE, 2) as play:
            for _ in range(3):
                play(sound)
                sizes.append(path.stat().st_size)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert sizes == [sizes[0] + number * 100 * 2 * 4 for number in range(3)]
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_array_equal(samples.T, np.tile(sound.samples, 3))


def test_raw_samples_are_interleaved_floats():
    stream = io.BytesIO()
    to_pcm(stream, Waveform(samples=np.array([[1.0, 2.0], [3.0, 4.0]]), sample_rate=RATE))
    assert np.frombuffer(stream.getvalue(), "<f4").tolist() == [1, 3, 2, 4]
