import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from audiostory import sound
from audiostory.sound import Waveform

GOLDEN = Path(__file__).parent / "data" / "golden" / "data"
CROSSFADES = json.loads((GOLDEN / "meta.json").read_text())["crossfade"]
END_TO_END = json.loads((GOLDEN / "meta.json").read_text())["end_to_end"]


def noise(num_samples: int, num_channels: int = 2, sample_rate: int = 8000, seed: int = 0) -> Waveform:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (num_channels, num_samples))
    return Waveform(samples=samples, sample_rate=sample_rate)


def ones(num_samples: int, level: float = 1.0) -> Waveform:
    return Waveform(samples=np.full((1, num_samples), level), sample_rate=10)


@pytest.mark.parametrize("case", CROSSFADES, ids=lambda case: f"case{case['case']}")
def test_golden_crossfades(case):
    recorded = load_file(GOLDEN / "crossfade.safetensors")
    prefix = f"case{case['case']}"
    clips = [
        Waveform(samples=recorded[f"{prefix}_in{i}"], sample_rate=case["sample_rate"])
        for i in range(len(case["lengths"]))
    ]
    joined = sound.crossfade(clips, case["transition_sec"])
    assert list(joined.samples.shape) == case["out_shape"]
    # The release's ramps are single precision, ours are rounded once: the last bit may differ.
    np.testing.assert_allclose(joined.samples, recorded[f"{prefix}_out"], rtol=0, atol=2e-7)


@pytest.mark.parametrize("clip", range(3))
def test_golden_resampling(clip):
    recorded = load_file(GOLDEN / "end_to_end.safetensors")
    trimmed = Waveform(samples=recorded[f"wave_trimmed_{clip}"], sample_rate=END_TO_END["vae_sr"])
    resampled = sound.resample(trimmed, END_TO_END["target_sr"])
    np.testing.assert_array_equal(resampled.samples, recorded[f"wave_resampled_{clip}"])


def test_golden_story_from_its_clips():
    recorded = load_file(GOLDEN / "end_to_end.safetensors")
    clips = [Waveform(samples=recorded[f"wave_resampled_{i}"], sample_rate=END_TO_END["target_sr"]) for i in range(3)]
    story = sound.crossfade(clips, END_TO_END["crossfade_sec"])
    np.testing.assert_allclose(story.samples, recorded["concat"], rtol=0, atol=2e-7)
    assert story.seconds == sum(clip["parsed_duration"] for clip in END_TO_END["clips"])


def test_golden_trimming():
    for clip in END_TO_END["clips"]:
        whole = Waveform(samples=np.zeros((2, clip["full_samples"])), sample_rate=END_TO_END["vae_sr"])
        assert sound.trim(whole, clip["used_duration"]).num_samples == clip["trimmed_samples"]


def test_a_short_clip_is_put_behind_when_strict_and_faded_when_gentle():
    clips = [ones(20), ones(5), ones(20)]
    assert sound.crossfade(clips, 0.8).num_samples == 25 + 20 - 8
    gentle = sound.crossfade(clips, 0.8, strict=False)
    assert gentle.num_samples == 20 + 20 - 8
    np.testing.assert_allclose(gentle.samples, 1, atol=1e-6)


def test_equal_power_keeps_the_power_of_independent_clips():
    first, second = noise(40000, seed=1), noise(40000, seed=2)
    linear = sound.crossfade([first, second], 5.0).samples.std()
    level = sound.crossfade([first, second], 5.0, shape="equal_power").samples.std()
    assert level == pytest.approx(first.samples.std(), rel=0.01)
    assert linear == pytest.approx(first.samples.std() * np.sqrt(2 / 3), rel=0.02)


def test_a_single_clip_stays_as_it_is():
    clip = noise(100)
    np.testing.assert_array_equal(sound.crossfade([clip], 1.0).samples, clip.samples)


@pytest.mark.parametrize(
    ("clips", "seconds", "message"),
    [
        ([], 1.0, "no clips to join"),
        ([noise(9), noise(9, num_channels=1)], 1.0, r"channels \[1, 2\]"),
        ([noise(9), noise(9, sample_rate=4000)], 1.0, r"sample rates \[4000, 8000\]"),
        ([noise(9)], -1.0, "0 seconds or more; got -1.0"),
        ([noise(9)], float("nan"), "got nan"),
    ],
)
def test_clips_that_do_not_join_are_refused(clips, seconds, message):
    with pytest.raises(ValueError, match=message):
        sound.crossfade(clips, seconds)


def test_an_unknown_fade_is_refused():
    with pytest.raises(ValueError, match=r'"linear" or "equal_power"; got \'cubic\''):
        sound.crossfade([noise(99), noise(99)], 0.001, shape="cubic")  # pyright: ignore[reportArgumentType]


def test_one_row_of_samples_is_mono():
    waveform = Waveform(samples=np.zeros(16000), sample_rate=16000)
    assert (waveform.num_channels, waveform.num_samples, waveform.seconds) == (1, 16000, 1.0)
    assert waveform.samples.dtype == np.float32


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        (np.zeros((1, 2, 3)), 10, r"floats \[channels, samples\]; got float64 \[1, 2, 3\]"),
        (np.zeros((1, 9), dtype=np.int16), 10, "got int16"),
        (np.zeros((1, 9)), 0, "positive sample rate"),
    ],
)
def test_what_is_no_waveform_is_refused(samples, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        Waveform(samples=samples, sample_rate=sample_rate)


def test_resampling_to_the_same_rate_changes_nothing():
    waveform = noise(100)
    assert sound.resample(waveform, 8000) is waveform


def test_resampling_keeps_the_length_in_time():
    assert sound.resample(noise(1001), 16000).num_samples == 2002
    assert sound.resample(noise(1001), 3000).num_samples == 376  # 375.375, rounded up
    with pytest.raises(ValueError, match="positive number of samples"):
        sound.resample(noise(9), 0)


def test_trimming_never_lengthens():
    assert sound.trim(noise(100), 9.0).num_samples == 100
    assert sound.trim(noise(100), 0.0).num_samples == 0
    with pytest.raises(ValueError, match="cannot trim to nan"):
        sound.trim(noise(100), float("nan"))


def test_wav_files_keep_every_bit(tmp_path):
    loud = Waveform(samples=noise(500).samples * 4, sample_rate=8000)
    sound.write(tmp_path / "new folder" / "a.wav", loud)
    back = sound.read(tmp_path / "new folder" / "a.wav")
    np.testing.assert_array_equal(back.samples, loud.samples)
    assert back.sample_rate == 8000


def test_flac_files_keep_sixteen_bits(tmp_path):
    waveform = noise(500, num_channels=1)
    sound.write(tmp_path / "a.flac", waveform)
    np.testing.assert_allclose(sound.read(tmp_path / "a.flac").samples, waveform.samples, atol=2**-15)


def test_the_same_sound_is_the_same_file_whenever_it_is_written(tmp_path):
    waveform = noise(500, num_channels=2)
    sound.write(tmp_path / "a.wav", waveform)
    time.sleep(1.1)  # a WAV of floats notes the second
    sound.write(tmp_path / "b.wav", waveform)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    np.testing.assert_array_equal(sound.read(tmp_path / "b.wav").samples, waveform.samples)


def test_writing_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fail(file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    sound.write(tmp_path / "a.wav", noise(50))
    before = (tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        sound.write(tmp_path / "a.wav", noise(70))
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: the name should end in \.wav, \.flac, \.ogg"):
        sound.write(tmp_path / "a.txt", noise(50))
    with pytest.raises(ValueError, match="not numbers"):
        sound.write(tmp_path / "a.wav", Waveform(samples=np.array([np.nan]), sample_rate=10))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*nothing\.wav"):
        sound.read(tmp_path / "nothing.wav")


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_refused_by_name(tmp_path, ending, kept):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    sound.write(whole, noise(8000))
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"cut\.{ending} (is cut off|cannot be read as audio|holds no samples)"):
        sound.read(cut)


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    for name in ("text.wav", "text.raw"):
        (tmp_path / name).write_text("this is no sound")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as audio .*; replace the file"):
            sound.read(tmp_path / name)


def test_files_without_sound_in_them_are_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 8000)
    with pytest.raises(ValueError, match=r"empty\.wav holds no samples"):
        sound.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.full((9, 1), np.nan), 8000, "FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav holds samples that are not numbers"):
        sound.read(tmp_path / "nan.wav")


def test_a_wav_that_a_pipe_wrote_is_whole(tmp_path):
    sound.write(tmp_path / "a.wav", noise(500))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    size = content.index(b"data") + 4
    content[size : size + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert sound.read(tmp_path / "a.wav").num_samples == 500
