"""Our model as a system: the same story whoever else is asked for, settings that follow the weights, and listening."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from systems.cases import asked, write_model

from audiostory import sound
from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline, StoryError
from audiostory.sound import Waveform
from audiostory.systems.ours import Ours


@pytest.fixture(scope="module")
def listening(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("listening") / "tiny", listens=True)


@pytest.fixture
def recording(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 16000))
    sound.write(tmp_path / "opening.wav", Waveform(samples=noise, sample_rate=16000))
    return tmp_path / "opening.wav"


def test_a_story_is_the_same_alone_and_among_others(model, plans):
    one, other = asked("a", 1.0, total=1.5, text="a dog then rain"), asked("b", 1.0, text="nothing")
    (alone,) = Ours(model, device="cpu").tell([one])
    longer = asked("c", 1.0, total=3.0, text="rain then a dog then wind")
    failed, _, second = Ours(model, device="cpu").tell([other, longer, one])
    assert isinstance(failed, StoryError)
    np.testing.assert_allclose(alone.story.samples, second.story.samples, atol=1e-5)
    assert alone.story.num_samples == 1.5 * alone.story.sample_rate
    (reseeded,) = Ours(model, device="cpu", seed=1).tell([one])
    assert not np.array_equal(alone.story.samples, reseeded.story.samples)


def test_a_recording_that_cannot_be_heard_is_for_a_person_to_mend(listening, recording):
    sound.write(recording, Waveform(samples=np.zeros((1, 0)), sample_rate=16000))
    one, deaf = asked("a", 1.0, text="a dog"), asked("b", 1.0, text="rain")
    deaf = replace(deaf, instruction=replace(deaf.instruction, audio=recording))
    with pytest.raises(ValueError, match=r"b: .* holds no samples") as caught:
        list(Ours(listening, device="cpu").tell([one, deaf]))
    assert not isinstance(caught.value, StoryError)


def test_a_story_that_memory_does_not_hold_ends_the_comparison_with_a_word(model, plans, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AudioStoryPipeline, "_solve", full)
    with pytest.raises(ValueError, match="a: memory does not hold the story") as caught:
        list(Ours(model, device="cpu").tell([asked("a", 1.0, text="a dog")]))
    assert not isinstance(caught.value, StoryError)


def test_an_oracle_is_given_the_true_storyline(model, plans):
    one = asked("a", 0.5, 0.75, total=1.25, text="a dog")
    (told,) = Ours(model, device="cpu", true_storyline=True).tell([one])
    assert [event.caption for event in told.storyline.events] == ["sound 0 of a", "sound 1 of a"]
    assert plans == []


def test_settings_change_with_the_weights_and_not_with_the_place(model, tmp_path):
    first = Ours(model).settings
    copy = shutil.copytree(model, tmp_path / "copy")
    assert Ours(copy).settings == first
    tiny.dit(seed=1).save_pretrained(copy / "dit")
    assert Ours(copy).settings["model_sha256"] != first["model_sha256"]
    assert (first["steps"], first["guidance"]) == (1, 2.0)
    assert Ours(model, steps=7, guidance=1.5).settings == first | {"steps": 7, "guidance": 1.5}
    assert Ours(model, true_storyline=True).settings["kind"] != first["kind"]


def test_another_solver_than_the_usual_one_is_told_and_used(model):
    one, usual = asked("a", 1.0, text="a dog"), Ours(model, device="cpu", true_storyline=True)
    heun = Ours(model, device="cpu", true_storyline=True, solver="heun")
    assert "solver" not in usual.settings  # as in folders that were told before there were others
    assert heun.settings == usual.settings | {"solver": "heun"}
    (told,), (otherwise,) = usual.tell([one]), heun.tell([one])
    assert (told.rendering.solver, otherwise.rendering.solver) == ("euler", "heun")
    assert not np.allclose(told.story.samples, otherwise.story.samples)


def test_no_network_is_loaded_before_a_story_is_told(model, monkeypatch):
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    system = Ours(model)
    assert system.settings["seed"] == 0
    assert list(system.tell([])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"guidance": 0.5}, "guidance must be"),
        ({"solver": "eulr"}, "'euler' was meant"),
        ({"device": "abacus"}, "no device"),
    ],
)
def test_a_mistake_is_said(model, options, message):
    with pytest.raises(ValueError, match=message):
        list(Ours(model, **options).tell([asked("a", 1.0)]))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model folder at"):
        Ours(tmp_path / "nowhere")


def test_a_model_says_what_it_lacks_to_listen(model, listening):
    assert Ours(model).lacking == ("audio_encoder", "listener_projector")
    assert Ours(listening).lacking == ()


def test_silence_stands_in_for_a_recording(listening, recording, monkeypatch):
    system, heard = Ours(listening, device="cpu"), []

    def describe(audio, questions, progress):
        heard.append(audio)
        return ["nothing"] * len(questions)

    monkeypatch.setattr(system.pipeline, "describe", describe)
    assert system.answer(recording, ["what?", "when?"]) == ["nothing", "nothing"]
    assert system.answer(recording, ["what?"], silent=True) == ["nothing"]
    assert heard[0] == recording
    assert (heard[1].seconds, heard[1].samples.any()) == (1.0, False)


def test_a_plan_after_silence_hears_nothing_of_the_opening(listening, recording, monkeypatch):
    system, heard = Ours(listening, device="cpu"), []
    one = asked("a", 0.5, 0.75, total=1.25)
    one = replace(one, instruction=replace(one.instruction, audio=recording))

    def plan(instruction, audio, progress):
        heard.append(audio)
        return system.pipeline.plan_from_storyline(one.storyline, instruction)

    monkeypatch.setattr(system.pipeline, "plan", plan)
    assert system.plan_after_silence(one) == (["sound 0 of a", "sound 1 of a"], 1.25)
    assert not heard[0].samples.any()
