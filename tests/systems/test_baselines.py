"""The baselines: what they ask text to audio for, how long their stories are, and what does not change them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systems.cases import RATE, Noises, asked

from audiostory import timeline
from audiostory.benchmark.recorded import Item, read_recorded
from audiostory.model import flow
from audiostory.pipeline import StoryError
from audiostory.story import Instruction, ProblemKind
from audiostory.story_files import save
from audiostory.systems.asked import story_seed
from audiostory.systems.baselines import Cascade, TrueCaptions, WholeCaption


def only(stories):
    (story,) = stories
    return story


@pytest.mark.parametrize(("total", "seconds"), [(2.5, 2.5), (None, 4.0), (4.0, 4.0), (9.0, 4.0)])
def test_the_whole_caption_is_one_clip_of_the_seconds_asked_or_of_the_longest(total, seconds):
    noises = Noises()
    told = only(WholeCaption(noises).tell([asked("a", 1.0, 1.5, total=total)]))
    assert noises.heard[0][:2] == (["all of a"], [seconds])
    assert told.story.num_samples == seconds * RATE
    assert [event.caption for event in told.storyline.events] == ["all of a"]
    assert [problem.kind for problem in told.problems] == [ProblemKind.TOO_LONG] * (total == 9.0)


def test_true_captions_are_laid_end_to_end_without_a_fade():
    told = only(TrueCaptions(Noises()).tell([asked("a", 0.5, 0.3, 1.0)]))
    assert np.array_equal(told.story.samples, np.concatenate([clip.samples for clip in told.clips], axis=1))
    assert [clip.seconds for clip in told.clips] == [0.5, 0.3, 1.0]
    assert [event.caption for event in told.storyline.events] == [f"sound {k} of a" for k in range(3)]


def test_an_event_longer_than_the_longest_clip_is_made_that_long_and_says_so():
    told = only(TrueCaptions(Noises()).tell([asked("a", 1.0, 6.0, 2.0)]))
    assert [event.seconds for event in told.storyline.events] == [1.0, 6.0, 2.0]  # the plan stays
    assert told.times == ((0.0, 1.0), (1.0, 5.0), (5.0, 7.0))
    assert told.story.num_samples == 7.0 * RATE
    assert [(problem.kind, problem.event) for problem in told.problems] == [(ProblemKind.TOO_LONG, 2)]
    assert "should last 6 s, the longest clip has 4 s" in told.problems[0].message


def test_what_was_shortened_is_measured_against_its_plan(tmp_path):
    told = only(TrueCaptions(Noises()).tell([asked("a", 1.0, 6.0, 2.0)]))
    save(told, tmp_path / "a", {"instruction": "sounds"}, picture=False)
    events = told.storyline.events
    item = Item(id="a", instruction=Instruction(text="sounds"), caption="sounds", events=events, reference=None)
    story = read_recorded(tmp_path, [item]).stories["a"]
    assert story.planned == (1.0, 6.0, 2.0)
    assert [(event.start, event.seconds) for event in story.events] == [(0.0, 1.0), (1.0, 4.0), (5.0, 2.0)]
    said = [event.get("planned_seconds") for event in json.loads((tmp_path / "a/storyline.json").read_text())["events"]]
    assert said == [None, 6.0, None]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 4.0), min_size=1, max_size=8))
def test_a_story_is_as_long_as_its_events_to_the_sample(seconds):
    told = only(TrueCaptions(Noises()).tell([asked("a", *seconds)]))
    assert told.story.num_samples == timeline.place(told.times[-1][1], RATE)
    assert sum(clip.num_samples for clip in told.clips) == told.story.num_samples


@pytest.mark.parametrize("system", [WholeCaption, TrueCaptions])
def test_a_story_does_not_depend_on_the_others_that_are_asked(system):
    one, other = asked("a", 1.0, 0.5), asked("b", 0.7)
    alone = only(system(Noises()).tell([one]))
    second = list(system(Noises()).tell([other, one]))[1]
    assert np.array_equal(alone.story.samples, second.story.samples)
    reseeded = only(system(Noises(), seed=1).tell([one]))
    assert not np.array_equal(alone.story.samples, reseeded.story.samples)


def test_clips_begin_with_the_noise_of_our_own_events():
    noises = Noises()
    only(TrueCaptions(noises, seed=3).tell([asked("a", 1.0, 0.5)]))
    for index, seed in enumerate(noises.heard[0][2]):
        ours = flow.clip_noise(story_seed(3, "a"), index, 4, 2)
        assert (flow.clip_noise(seed, 0, 4, 2, shared=True) == ours).all()


def test_the_cascade_makes_a_clip_of_each_caption_that_the_planner_writes(model, plans):
    noises = Noises()
    cascade = Cascade(model, noises, device="cpu")
    stories = list(cascade.tell([asked("a", 9.0, total=3.0, text="a dog then rain"), asked("b", 1.0, text="nothing")]))
    assert noises.heard == [(["a dog", "rain"], [1.5, 1.5], noises.heard[0][2])]
    assert stories[0].story.num_samples == 3.0 * RATE
    assert isinstance(stories[1], StoryError)
    assert plans == ["a dog then rain", "nothing"]


def test_the_cascade_ends_with_what_a_person_has_to_mend(model):
    with pytest.raises(ValueError, match=r"^a: .*instruction"):
        list(Cascade(model, Noises(), device="cpu").tell([asked("a", 1.0, text=" ")]))


def test_settings_tell_the_baselines_apart(model):
    kinds = [WholeCaption(Noises()), TrueCaptions(Noises()), Cascade(model, Noises()), WholeCaption(Noises(), seed=1)]
    said = [dict(system.settings) for system in kinds]
    assert len({str(sorted(settings.items())) for settings in said}) == len(said)
    assert all({"text_to_audio", "steps", "guidance", "seed"} <= set(settings) for settings in said)
