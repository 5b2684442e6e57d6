"""The grammar of the sound world: stories are deterministic and well formed, captions can be read back, and what is
held out for test never shows in train."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.soundworld.instructions import FRAMES, _mixed_frame
from audiostory.soundworld.phrases import WORDS, all_sounds
from audiostory.soundworld.sounds import CLASSES
from audiostory.soundworld.stories import (
    JITTER,
    KINDS,
    SPLITS,
    _least_tenths,
    _natural_tenths,
    canonical_caption,
    captions,
    class_in_text,
    held_out_pairs,
    held_out_sounds,
    make_story,
    sounds_in_caption,
    texts,
    words,
)
from audiostory.story.prompts import check

seeds = st.integers(0, 2**40)
sounds_of_the_world = st.sampled_from(sorted(CLASSES)).flatmap(lambda name: st.sampled_from(all_sounds(name)))
PLACE_AND_PITCH = {"room", "hall", "church", "tunnel", "outdoors", "outside", "inside", "sky", "air"}
PLACE_AND_PITCH |= {"deep", "low", "high", "medium", "pitch", "pitched", "tone", "voiced"}


@cache
def stories(split, num=400, kind="story"):
    return [make_story(seed, split, kind) for seed in range(num)]


def words_of(text):
    return re.findall(r"[A-Za-z]+", text)


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(KINDS))
def test_same_seed_same_story(seed, split, kind):
    assert make_story(seed, split, kind) == make_story(seed, split, kind)


def test_one_seed_gives_unrelated_stories_in_other_splits_and_kinds():
    for seed in range(20):
        made = [make_story(seed, split, kind) for split in SPLITS for kind in KINDS]
        assert len({story.cast.seed for story in made}) == len(made)


@given(seeds, st.sampled_from(SPLITS))
def test_a_story_tiles_its_total(seed, split):
    story = make_story(seed, split)
    events, total = story.storyline.events, story.storyline.total_seconds
    check(story.storyline)
    assert 1 <= len(events) <= 6
    assert 4 <= round(total, 6) <= 60
    assert all(2 <= event.seconds <= 11 for event in events)
    assert [event.start for event in events[1:]] == pytest.approx([e.start + e.seconds for e in events[:-1]])
    if story.instruction.total_seconds is not None:
        assert story.instruction.total_seconds == pytest.approx(total)


@given(seeds, st.sampled_from(SPLITS))
def test_a_clip_is_one_event(seed, split):
    story = make_story(seed, split, "clip")
    (event,), (sound,) = story.storyline.events, story.sounds
    assert 1.5 <= event.seconds <= 12
    assert sounds_in_caption(event.caption) == sound


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(KINDS))
def test_texts_stay_short(seed, split, kind):
    story = make_story(seed, split, kind)
    events = story.storyline.events
    assert len(story.instruction.text.split()) <= 25 + 9 * len(events)
    assert len(story.storyline.summary.split()) <= 20
    for event in events:
        assert 3 <= len(event.caption.split()) <= 10
        assert 1 <= len(event.story_detail.split()) <= 6
        assert 1 <= len(event.sound_detail.split()) <= 6


@given(seeds)
def test_a_plan_tells_the_sounds_in_order(seed):
    story = make_story(seed)
    names = [sound.name for sound in story.sounds]
    captions_told = [event.caption for event in story.storyline.events]
    assert captions_told == [canonical_caption(sound) for sound in story.sounds]
    assert [class_in_text(caption) for caption in captions_told] == names
    assert [class_in_text(part) for part in story.storyline.summary.split(", ")] == names


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(KINDS))
def test_an_instruction_names_every_class_and_the_place(seed, split, kind):
    story = make_story(seed, split, kind)
    written = re.findall(r"[a-z]+", story.instruction.text.lower())
    named = {class_in_text(word) for word in written} - {None}
    assert named == {sound.name for sound in story.sounds}
    place_words = {"open air": {"outdoors", "outside", "air", "sky"}}.get(story.cast.place, {story.cast.place})
    assert place_words & set(written)


@given(seeds)
def test_plan_details_carry_what_captions_leave_out(seed):
    story = make_story(seed)
    for sound, event in zip(story.sounds, story.storyline.events, strict=True):
        register = {"low": "deep", "middle": "medium", "high": "high", None: None}[story.cast.pitches.get(sound.name)]
        assert (register or "in") == re.split(r"\W", event.sound_detail)[0]
        assert story.cast.place.split()[-1] in event.sound_detail


def test_every_caption_leads_back_to_its_sound_alone():
    met = {}
    for name in CLASSES:
        for sound in all_sounds(name):
            forms = captions(sound)
            assert len(forms) >= 3
            assert forms[0] == canonical_caption(sound)
            for caption in forms:
                assert met.setdefault(caption, sound) == sound
                assert sounds_in_caption(f" {caption.capitalize()}. ") == sound
                assert class_in_text(caption) == name


@given(sounds_of_the_world)
def test_captions_tell_neither_place_nor_pitch(sound):
    assert all(not PLACE_AND_PITCH & set(words_of(caption)) for caption in captions(sound))


@pytest.mark.parametrize("text", ["", "a cat meows twice", "a dog", "a dog barks six times", "a church", "42 !?"])
def test_text_from_elsewhere_is_no_caption(text):
    assert sounds_in_caption(text) is None


@given(st.text(max_size=40))
def test_reading_any_text_never_fails(text):
    sounds_in_caption(text)
    class_in_text(text)


def test_class_in_text_reads_looser_text():
    assert class_in_text("Two DOGS, then rain") == "dog"
    assert class_in_text("the doghouse is silent") is None


def test_no_class_shares_a_key_with_another():
    keys = Counter(key for entry in WORDS.values() for key in entry.keys.split())
    assert max(keys.values()) == 1
    assert set(WORDS) == set(CLASSES)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_out_never_shows_in_train_or_val(split, kind):
    for story in stories(split, kind=kind):
        assert not story.unseen
        assert not held_out_sounds() & set(story.sounds)
        assert not held_out_pairs() & set(pairwise(sound.name for sound in story.sounds))
        lowered = story.instruction.text.lower()
        assert "to finish" not in lowered
        assert not re.search(r"(dog|bell|rain|siren|wind|door|machine) that ", lowered)


def test_every_test_story_holds_something_unseen_and_half_have_an_unseen_frame():
    for kind in KINDS:
        for story in stories("test", kind=kind):
            pairs = set(pairwise(sound.name for sound in story.sounds))
            assert (held_out_sounds() & set(story.sounds)) or (held_out_pairs() & pairs)
            assert {"combination", "pair"} & set(story.unseen)
        share = sum("frame" in story.unseen for story in stories("test", kind=kind)) / 400
        assert 0.4 < share < 0.6


def test_held_out_sets_are_small_and_leave_every_attribute_to_train():
    assert 0.06 < len(held_out_sounds()) / sum(len(all_sounds(name)) for name in CLASSES) < 0.11
    assert 0.06 < len(held_out_pairs()) / (len(CLASSES) * (len(CLASSES) - 1)) < 0.10
    for name in CLASSES:
        seen = [sound for sound in all_sounds(name) if sound not in held_out_sounds()]
        assert len(seen) < len(all_sounds(name))
        for attribute in ("count", "pace", "level", "distance"):
            values = {getattr(sound, attribute) for sound in all_sounds(name)}
            assert values == {getattr(sound, attribute) for sound in seen}


def test_held_out_sets_never_change():
    """A changed set would let a trained model meet in test what it saw in train."""
    told = sorted(canonical_caption(sound) for sound in held_out_sounds())
    assert told[:3] == ["a bell rings quickly", "a bell rings twice", "a bird sings close by"]
    assert sorted(held_out_pairs())[:2] == [("applause", "drum"), ("applause", "piano")]


def test_texts_use_only_the_listed_words_and_test_only_those_of_train():
    listed = set(words())
    train, test = ({word for text in texts(split, 1000) for word in words_of(text)} for split in ("train", "test"))
    assert train | test <= listed
    assert {word.lower() for word in test} <= {word.lower() for word in train}
    assert len(listed) < 700
    assert {word for word in listed - train - test if word.islower()} == set()


def test_stories_have_the_wanted_shape():
    made = stories("train", 1500)
    counts = Counter(len(story.sounds) for story in made)
    returning = sum(len({sound.name for sound in story.sounds}) < len(story.sounds) for story in made)
    no_total = sum(story.instruction.total_seconds is None for story in made)
    for num, share in zip(range(1, 7), (0.06, 0.14, 0.22, 0.24, 0.20, 0.14), strict=True):
        assert counts[num] / len(made) == pytest.approx(share, abs=0.04)
    assert returning / len(made) == pytest.approx(0.3, abs=0.05)
    assert no_total / len(made) == pytest.approx(0.12, abs=0.03)
    assert {sound.name for story in made for sound in story.sounds} == set(CLASSES)


def test_a_class_never_follows_itself():
    assert all(a.name != b.name for story in stories("train") for a, b in pairwise(story.sounds))


def test_lengths_follow_from_sounds_and_total_but_for_jitter_and_rounding():
    for story in stories("train"):
        scales = [
            event.seconds / _natural_tenths(sound)
            for sound, event in zip(story.sounds, story.storyline.events, strict=True)
            if max(2, _least_tenths(sound) / 10) < event.seconds < 11
        ]
        assert not scales or max(scales) / min(scales) < (1 + JITTER) / (1 - JITTER) * 1.1


def test_frames_are_many_and_fit_their_slots():
    assert sum(not frame.unseen for frame in FRAMES) >= 25
    assert sum(frame.unseen for frame in FRAMES) >= 8
    for split in SPLITS:
        for story in stories(split):
            assert not re.search(r"[{}|]|  | ,|\.\.", story.instruction.text)


@pytest.mark.parametrize(("seed", "split", "kind"), [(-1, "train", "story"), (0, "dev", "story"), (0, "val", "tale")])
def test_a_wrong_argument_is_named(seed, split, kind):
    with pytest.raises(ValueError, match="a story needs a seed"):
        make_story(seed, split, kind)


@given(seeds)
def test_a_mixed_frame_asks_for_the_same_story_and_shows_nothing_of_test(seed):
    plain, mixed = make_story(seed, "train"), make_story(seed, "train", mixed=True)
    assert (mixed.storyline, mixed.sounds, mixed.cast, mixed.unseen) == (plain.storyline, plain.sounds, plain.cast, ())
    assert set(re.findall(r"[a-z]+", mixed.instruction.text.lower())) <= {word.lower() for word in words()}


def test_mixed_frames_are_many_hold_every_mention_and_are_none_of_test():
    rng = np.random.default_rng(0)
    drawn = [_mixed_frame(rng, num_events) for num_events in (2, 3, 4, 6) for _ in range(500)]
    patterns = {frame.pattern for frame in drawn}
    assert len(patterns) > 1000
    assert not patterns & {frame.pattern for frame in FRAMES if frame.unseen}
    for frame in drawn:
        slots = frame.pattern.count("{}")
        assert slots >= 2 or ("{last}" in frame.pattern and "{before}" in frame.pattern)
        assert not re.search(r"second|third|fourth|fifth|[2-5]:", frame.pattern)
