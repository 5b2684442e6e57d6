"""What kind of script a row becomes, and what of a store it takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiostory.dataset import manifest, sample
from audiostory.model import tiny
from audiostory.story import Layout, Role, script

EVENT = {"caption": "rain falls", "seconds": 2.0, "clip_seconds": 2.5}
STORY = {"id": "row", "instruction": "rain", "total_seconds": 2.0, "events": [EVENT]}


class FakeStore:
    """As much of a store as a row takes; every tensor tells what it was asked for by."""

    def latents(self, key: str) -> Tensor:
        assert key == "row/0"
        return torch.ones(5, 8)

    def teacher(self, caption: str) -> Tensor:
        assert caption == "rain falls"
        return torch.ones(4, 16)

    def clip_features(self, key: str) -> Tensor:
        assert key == "row/0"
        return torch.ones(4, 7)

    def features(self, key: str) -> Tensor:
        if key != "openings/row.wav":
            raise ValueError(f"the store holds no features of {key}")
        return torch.ones(3, tiny.NUM_LISTENING, tiny.AUDIO_WIDTH)


def row(**changes) -> manifest.Row:
    return manifest.parse({**STORY, **changes}, Path("corpus"))


def build(data: manifest.Row, store: FakeStore | None = FakeStore(), **wanted) -> sample.Sample:  # noqa: B008
    return sample.build(data, tiny.vocabulary(), store, **wanted)


def test_a_story_is_written_as_before():
    made = build(row())
    assert made.script == script.write(row().instruction, row().storyline, tiny.vocabulary())
    assert made.features is None
    assert made.seconds == (2.5,)
    assert made.latents is not None
    assert made.teacher is not None
    assert made.bridge_sizes == (tiny.NUM_SEMANTIC, tiny.NUM_RESIDUAL)


def test_what_follows_a_recording_is_written_with_its_places():
    data = row(heard="openings/row.wav")
    made = build(data)
    expected = script.write(data.instruction, data.storyline, tiny.vocabulary(), num_listening=3 * tiny.NUM_LISTENING)
    assert made.script == expected
    assert made.features is not None
    assert len(made.script.listening) == 3 * tiny.NUM_LISTENING
    assert len(made.script.slots) == 1


def test_a_question_reasons_before_it_answers_unless_the_layout_has_no_reasoning():
    data = row(events=[], answer="yes", reasoning="1. it rains", total_seconds=None)
    roles = {layout: build(data, store=None, layout=Layout(reasoning=layout)).script.roles for layout in (True, False)}
    assert {layout: Role.HEARD in told for layout, told in roles.items()} == {True: True, False: False}


def test_a_question_is_written_with_its_answer_and_without_events():
    data = row(heard="openings/row.wav", events=[], answer="it rains", total_seconds=None)
    made = build(data)
    assert script.read_answer(made.script.ids, tiny.vocabulary()) == "it rains"
    assert Role.ANSWER in made.script.roles
    assert made.script.slots == made.seconds == ()
    assert not made.latents
    assert not made.teacher


def test_without_a_store_words_are_taught_and_recordings_cannot_be():
    made = build(row(), store=None)
    assert made.latents is made.teacher is None
    assert build(row(events=[], answer="yes"), store=None).features is None
    with pytest.raises(ValueError, match=r"row row holds the recording openings/row\.wav, and there is no store"):
        build(row(heard="openings/row.wav"), store=None)


def test_features_that_the_store_lacks_are_an_error_not_a_deaf_row():
    with pytest.raises(ValueError, match=r"no features of elsewhere\.wav"):
        build(replace(row(heard="elsewhere.wav")))


def test_only_what_is_wanted_is_read():
    made = build(row(heard="openings/row.wav"), latents=False, teacher=False)
    assert made.latents is made.teacher is None
    assert made.features is not None


def test_a_layout_decides_what_the_script_says():
    for layout in (Layout(reasoning=False), Layout(captions=False)):
        made = build(row(), layout=layout)
        assert made.script == script.write(row().instruction, row().storyline, tiny.vocabulary(), layout=layout)
        assert made.script != build(row()).script
        assert len(made.script.slots) == 1


def test_clip_features_are_read_when_they_are_wanted():
    assert build(row()).clip_features is None
    (features,) = build(row(), clip_features=True).clip_features or ()
    assert features.shape == (4, 7)
