"""The ear learns to tell sounds apart, hears a clip alike in any company, and says so when it cannot hear."""

import numpy as np
import pytest
import torch
from benchmark.cases import RATE, beep, write_manifest

from audiostory import sound
from audiostory.benchmark.ear import NUM_FEATURES, Ear, EarSettings, accuracy, log_mel, read_mono, train
from audiostory.benchmark.ear import _padded as padded
from audiostory.benchmark.items import read_truth
from audiostory.soundworld.sounds import CLASSES

LABELS = {"name": ["bell", "dog", "rain"], "place": ["hall", "room"], "register": ["high", "low"]}


def events_of(manifest):
    return [event for story in read_truth(manifest) for event in story.events]


def test_a_short_training_tells_sounds_and_places_apart(tmp_path):
    names = ["dog", "rain", "bell"]
    learn = events_of(write_manifest(tmp_path / "learn", [[names[i % 3]] for i in range(48)]))
    test = events_of(write_manifest(tmp_path / "test", [[names[i // 3 % 3]] for i in range(18)]))
    ear, facts = train(learn, test, EarSettings(epochs=6, batch_size=8))
    assert facts["held_out_accuracy"]["name"] > 0.8
    assert facts["held_out_accuracy"]["place"] > 0.8
    assert (facts["clips"], facts["held_out_clips"]) == (48, 18)
    assert accuracy(ear, test) == facts["held_out_accuracy"]


def test_a_clip_is_heard_alike_alone_and_beside_longer_ones():
    torch.manual_seed(0)
    ear = Ear(LABELS).eval()
    mels = [log_mel(beep(500, seconds, False, 1)) for seconds in (0.03, 0.5, 1.71, 3.0)]
    together = ear(*padded(mels))
    for row, mel in enumerate(mels):
        alone = ear(*padded([mel]))
        for question in LABELS:
            torch.testing.assert_close(together[question][row], alone[question][0], atol=1e-5, rtol=1e-5)


def test_what_stands_behind_a_clip_is_not_heard():
    torch.manual_seed(0)
    ear = Ear(LABELS).eval()
    mels, frames = padded([log_mel(beep(500, 1.0, False, 1)), log_mel(beep(500, 2.0, False, 1))])
    noisy = mels.clone()
    noisy[0, int(frames[0]) :] = 1.0
    torch.testing.assert_close(ear(noisy, frames)["name"], ear(mels, frames)["name"])


def test_loudness_is_not_heard_and_silence_is_nothing():
    clip = beep(500, 1.0, False, 1)
    torch.testing.assert_close(log_mel(0.2 * clip), log_mel(clip), atol=1e-3, rtol=0)
    assert log_mel(clip).max() == 1.0
    assert log_mel(np.zeros(RATE, dtype=np.float32)).max() == 0.0


def test_answers_stand_in_the_order_of_the_clips_and_any_rate_will_do(tmp_path):
    torch.manual_seed(0)
    ear, files = Ear(LABELS), []
    for number, seconds in enumerate((2.0, 0.3, 1.1, 0.7)):
        files.append(tmp_path / f"{number}.wav")
        clip = sound.Waveform(samples=beep(900 * number + 200, seconds, False, number), sample_rate=RATE)
        stereo = sound.Waveform(samples=np.repeat(clip.samples, 2, 0), sample_rate=RATE)
        sound.write(files[-1], sound.resample(stereo, 44100) if number % 2 else clip)
    assert ear.hear(files, batch_size=2) == [ear.hear([file])[0] for file in files]
    assert read_mono(files[1]).shape == (round(0.3 * RATE),)
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        ear.hear([tmp_path / "gone.wav"])


def test_features_and_logits_belong_to_the_clip_and_not_to_the_batch(tmp_path):
    torch.manual_seed(0)
    ear, files = Ear(LABELS), []
    for number, seconds in enumerate((2.0, 0.3, 1.1)):
        files.append(tmp_path / f"{number}.wav")
        sound.write(files[-1], sound.Waveform(samples=beep(900, seconds, False, number), sample_rate=RATE))
    together, backwards = ear.hear(files), ear.hear(files[::-1], batch_size=1)[::-1]
    for one, other in zip(together, backwards, strict=True):
        assert one.features.shape == (NUM_FEATURES,)
        np.testing.assert_allclose(one.features, other.features, atol=1e-5)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        assert one.name == LABELS["name"][one.logits.argmax()]
    assert np.abs(together[0].features - together[1].features).max() > 1e-3


def test_an_ear_comes_with_the_package():
    ear, facts = Ear.load()
    assert len(ear.labels["name"]) == len(CLASSES)
    assert facts["held_out_accuracy"]["name"] > 0.99


def test_an_ear_is_kept_whole(tmp_path):
    torch.manual_seed(0)
    ear = Ear(LABELS).eval()
    ear.save(tmp_path / "ear", {"clips": 3})
    again, page = Ear.load(tmp_path / "ear")
    mels = padded([log_mel(beep(500, 1.0, False, 1))])
    assert page["clips"] == 3
    torch.testing.assert_close(again(*mels)["name"], ear(*mels)["name"])
    assert sorted(path.name for path in (tmp_path / "ear").iterdir()) == ["ear.json", "ear.safetensors"]


def test_a_missing_or_damaged_ear_is_named(tmp_path):
    with pytest.raises(ValueError, match="no ear in"):
        Ear.load(tmp_path)
    Ear(LABELS).save(tmp_path, {})
    weights = tmp_path / "ear.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        Ear.load(tmp_path)


def test_a_corpus_without_audio_or_without_epochs_cannot_teach(tmp_path):
    events = events_of(write_manifest(tmp_path, [["dog"]], audio=False))
    with pytest.raises(ValueError, match="without audio"):
        train(events, events, EarSettings())
    with pytest.raises(ValueError, match="at least 1 epoch"):
        EarSettings(epochs=0)
