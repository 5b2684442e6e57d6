import json

import numpy as np
import pytest

from audiostory import picture, sound
from audiostory.training import journal, provenance
from audiostory.training.config import Logger


def opened(folder, kind: str = "none", **more) -> journal.Journal:
    return journal.Journal(folder, step=0, steps=3, name="s", logger=Logger(kind=kind), settings={"a": 1}, **more)


@pytest.fixture
def example(tmp_path):
    """What a listening leaves: a sound and a text."""
    folder = tmp_path / "listen"
    folder.mkdir()
    samples = 0.3 * np.sin(np.arange(8000) / 5)[None].astype(np.float32)
    sound.write(folder / "row-1.wav", sound.Waveform(samples=samples, sample_rate=16000))
    (folder / "row-1.txt").write_text("<|think|>Storyline: a hum")
    return folder


def test_tensorboard_gets_numbers_sounds_spectrograms_and_texts(tmp_path, example):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = opened(tmp_path, "tensorboard")
    log.write(1, {"loss/flow": 0.5})
    log.examples(1, example)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert tags["scalars"] == ["loss/flow"]
    assert tags["audio"] == ["examples/row-1"]
    assert tags["images"] == ["examples/row-1_spectrogram"]
    assert tags["tensors"] == ["examples/row-1/text_summary"]


def test_wandb_offline_needs_no_key_and_goes_on_with_its_own_run(tmp_path, example, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        log = opened(tmp_path, "wandb")
        log.write(step, {"loss/flow": 0.5})
        log.examples(step, example)
        log.close()
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    identity = (tmp_path / "wandb_id.txt").read_text().strip()
    assert runs
    assert all(path.name.endswith(identity) for path in runs)


def test_wandb_online_without_a_key_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"WANDB_API_KEY, or take logger\.mode=offline"):
        journal.Journal(tmp_path, step=0, steps=1, name="s", logger=Logger(kind="wandb", mode="online"), settings={})


def test_a_silent_journal_writes_nothing(tmp_path):
    log = opened(tmp_path, "tensorboard", silent=True)
    log.write(1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_spectrogram_is_a_picture_with_low_tones_below():
    samples = 0.5 * np.sin(2 * np.pi * 100 * np.arange(16000) / 16000)[None]
    pixels = picture.spectrogram(sound.Waveform(samples=samples.astype(np.float32), sample_rate=16000))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    brightness = pixels.sum((1, 2))
    assert brightness[len(brightness) // 2 :].max() > 2 * brightness[: len(brightness) // 2].max()


def test_what_runs_is_told_with_commit_and_versions():
    told = provenance.of_code()
    assert told["versions"]["torch"]
    json.dumps(told)
    if told["git"] is not None:
        assert len(told["git"]["commit"]) == 40
