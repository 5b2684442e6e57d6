"""Packing a model to ship: what comes along, in which precision, and that a mistake leaves no folder."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
import torch

from audiostory.model import tiny
from audiostory.model.listener import ListenerProjector
from audiostory.pipeline import AudioStoryPipeline
from audiostory.weights import ours
from audiostory.weights.ours import Settings

SETTINGS = Settings(steps=3, guidance=2.0, places=["a room"])


@pytest.fixture(scope="module")
def pack():
    return commands.load("scripts/pack_model.py").main


def parts():
    return (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"), SETTINGS)


@pytest.fixture
def exports(tmp_path) -> Path:
    """As stages leave them: one that tells and has a listener, and the encoders by themselves."""
    AudioStoryPipeline(*parts(), listener_projector=tiny.listener_projector()).save_pretrained(tmp_path / "stage3")
    tiny.audio_encoder().save_pretrained(tmp_path / "hearing" / "audio_encoder")
    tiny.text_encoder().save_pretrained(tmp_path / "tangoflux" / "text_encoder")
    return tmp_path


def test_a_packed_model_listens_tells_and_can_be_trained_on(pack, exports):
    more = ["--audio_encoder", str(exports / "hearing"), "--text_encoder", str(exports / "tangoflux")]
    assert pack([str(exports / "stage3"), "--output", str(exports / "packed"), *more]) == 0
    assert set(ours.read_names(exports / "packed")) == set(ours.CLASSES)
    packed = AudioStoryPipeline.from_pretrained(exports / "packed")
    assert packed.settings == SETTINGS
    assert packed.max_heard_seconds > 0
    for name, made in (("audio_encoder", tiny.audio_encoder()), ("listener_projector", tiny.listener_projector())):
        for key, tensor in made.state_dict().items():
            assert torch.equal(getattr(packed, name).state_dict()[key], tensor.half().float()), key
    ours.read_component(exports / "packed", "text_encoder")


def test_without_more_what_the_export_has_comes_along(pack, exports):
    assert pack([str(exports / "stage3"), "--output", str(exports / "packed")]) == 0
    assert ours.read_names(exports / "packed") == (*ours.TELLING, "listener_projector")


def test_an_ear_that_does_not_fit_is_refused_and_nothing_is_left(pack, exports, capsys):
    other = ListenerProjector(audio_width=8, planner_width=tiny.PLANNER_WIDTH, num_tokens=2)
    AudioStoryPipeline(*parts(), listener_projector=other).save_pretrained(exports / "other")
    flags = ["--output", str(exports / "packed"), "--audio_encoder", str(exports / "hearing")]
    assert pack([str(exports / "other"), *flags]) == 2
    assert "audio encoder width and listener: 16 and 8" in capsys.readouterr().err
    assert not (exports / "packed").exists()


def test_a_folder_without_an_ear_is_named(pack, exports, capsys):
    flags = ["--output", str(exports / "packed"), "--audio_encoder", str(exports / "tangoflux")]
    assert pack([str(exports / "stage3"), *flags]) == 2
    assert "so there is no audio_encoder" in capsys.readouterr().err
