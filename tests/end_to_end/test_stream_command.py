"""evaluate/inference.py --stream: the sound grows while the story is planned, and is the one told at once."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import numpy as np
import pytest
import soundfile

from audiostory.model import tiny
from audiostory.model.planner import Planner, reciting
from audiostory.pipeline import AudioStoryPipeline
from audiostory.story import Event, Instruction, Storyline, script
from audiostory.weights.ours import Settings

STORY = Storyline(
    summary="A dog waits.", events=(Event(caption="a dog", seconds=1.0), Event(caption="rain", seconds=0.5, start=1.0))
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    AudioStoryPipeline(*parts, Settings(steps=2, crossfade_seconds=0.2)).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """The command, told into `out`; the planner writes STORY."""
    vocabulary, writing = tiny.vocabulary(), Planner.writing
    story = script.write(Instruction(text="x"), STORY, vocabulary).ids
    story = story[story.index(vocabulary.think) + 1 :]

    def recite(planner, prompts, vocabulary, **settings):
        chooser = reciting(story, vocabulary)
        return writing(planner, prompts, vocabulary, **settings, choose=lambda number, scores: chooser(scores))

    monkeypatch.setattr(Planner, "writing", recite)
    common = ["--model_path", str(model), "--instruction", "a dog", "--total_duration", "3", "--device", "cpu"]
    inference = commands.load("evaluate/inference.py")
    return lambda *flags: inference.main([*common, "--output", str(tmp_path / "out"), *flags])


@pytest.mark.parametrize("flags", [(), ("--wait_for_plan",)])
def test_a_streamed_story_is_the_one_told_at_once_and_takes_its_place(run, tmp_path, capsys, flags):
    assert run("--no-picture") == 0
    told = soundfile.read(tmp_path / "out/story.wav")[0]
    capsys.readouterr()
    assert run("--stream", *flags) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["story.wav", "storyline.json"]
    np.testing.assert_allclose(soundfile.read(tmp_path / "out/story.wav")[0], told, rtol=0, atol=1e-5)
    record = json.loads((tmp_path / "out/storyline.json").read_text())
    assert [(event["caption"], event["start"]) for event in record["events"]] == [("a dog", 0.0), ("rain", 2.0)]
    assert record["total_seconds"] == 3.0
    assert record["problems"][0]["kind"] == "total duration"
    said = capsys.readouterr().out
    assert "a dog" in said
    assert "all durations were scaled" in said


def test_a_stream_to_a_player_is_sound_alone(run, tmp_path, capsysbinary):
    assert run("--no-picture") == 0
    told = soundfile.read(tmp_path / "out/story.wav")[0]
    capsysbinary.readouterr()
    assert run("--stream", "-") == 0
    heard = capsysbinary.readouterr()
    np.testing.assert_allclose(np.frombuffer(heard.out, "<f4"), told, rtol=0, atol=1e-5)
    assert b"a dog" in heard.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--as_released"], "--as_released needs the whole story"),
        (["--target_sr", "400"], "--target_sr needs the whole story"),
        (["--steps", "0"], "steps must be"),
        (["--input", __file__], "--instruction is about one story"),
        (["--max_new_tokens", "9"], "no complete event"),
    ],
)
def test_a_mistake_ends_in_one_line_code_2_and_no_file(run, tmp_path, capsys, flags, message):
    assert run("--stream", *flags) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
