"""Continuations: references mean what was heard, the rest is named, and what test holds out never shows in train."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.soundworld.continuations import (
    AGAIN,
    FRAMES,
    REFERRING_SHARE,
    UNSEEN_FRAMES,
    WHOLES,
    continuation_words,
    make_continuation,
)
from audiostory.soundworld.questions import is_told_by_ear
from audiostory.soundworld.stories import (
    SPLITS,
    canonical_caption,
    class_in_text,
    held_out_pairs,
    held_out_sounds,
    make_story,
    words,
)
from audiostory.story.prompts import check

ONLY_IN_TEST = (
    "one more time|from now on|after this let me|all of it again in|order now|once more from"
    "|whole opening comes again but|we hear the [a-z ]*once more|(machine|dog|rain|siren|bell) that "
)

seeds = st.integers(0, 2**40)
splits = st.sampled_from(SPLITS)


@cache
def continuations(split, num=800):
    return [make_continuation(seed, split) for seed in range(num)]


def words_of(text):
    return re.findall(r"[A-Za-z]+", text)


def meant(text, num_heard):
    """The events of the opening that a request refers to, in the order of its words: read from the text alone."""
    text = text.lower()
    whole = r"same sounds|all the sounds|all of it (?:again|once|comes)|whole opening"
    positions = r"(same|only|first|second|middle|last)? ?sound (before the last)?"
    references = []
    for found in re.finditer(rf"{whole}|the {positions}", text):
        rest = text[found.start() :]
        if re.match(whole, found[0]):
            is_back = re.match(r"[a-z ]*?(backwards|from the last to the first)", rest)
            references += range(num_heard)[::-1] if is_back else range(num_heard)
        elif found[2]:
            references.append(num_heard - 2)
        elif found[1] or re.match(r"the sound (you heard|of the opening)", rest):
            references.append({"last": num_heard - 1, "second": 1, "middle": 1}.get(found[1] or "", 0))
    return references


@given(seeds, splits)
def test_same_seed_same_continuation(seed, split):
    assert make_continuation(seed, split) == make_continuation(seed, split)


@given(seeds, splits)
def test_references_are_what_was_heard_and_the_rest_was_not(seed, split):
    made = make_continuation(seed, split)
    heard = [event.caption for event in made.opening.storyline.events]
    names = {sound.name for sound in made.opening.sounds}
    assert 1 <= len(heard) <= 3
    assert 1 <= len(made.references) == len(made.story.sounds) <= 3
    for reference, sound, event in zip(made.references, made.story.sounds, made.story.storyline.events, strict=True):
        assert event.caption == canonical_caption(sound)
        if reference is None:
            assert sound.name not in names
        else:
            assert event.caption == heard[reference]
            assert event.story_detail == "it happens once more"
    assert made.story.cast == made.opening.cast


@given(seeds, splits)
def test_a_request_can_be_followed_by_who_heard_the_opening_alone(seed, split):
    made = make_continuation(seed, split)
    text = made.story.instruction.text
    assert meant(text, len(made.opening.sounds)) == [index for index in made.references if index is not None]
    named = [sound.name for sound, index in zip(made.story.sounds, made.references, strict=True) if index is None]
    assert list(dict.fromkeys(filter(None, map(class_in_text, words_of(text))))) == named


@given(seeds, splits)
def test_continuations_are_stories_of_their_own_length(seed, split):
    made = make_continuation(seed, split)
    for story in (made.opening, made.story):
        check(story.storyline)
        assert 4 <= round(story.storyline.total_seconds, 6) <= 33
        assert story.storyline.events[0].start == 0
        assert all(2 <= event.seconds <= 11 for event in story.storyline.events)
        assert all(one.name != other.name for one, other in pairwise(story.sounds))
    if made.story.instruction.total_seconds is not None:
        assert made.story.instruction.total_seconds == pytest.approx(made.story.storyline.total_seconds)


@given(seeds, splits)
def test_the_summary_names_what_was_heard_before_it_goes_on(seed, split):
    made = make_continuation(seed, split)
    heard, told = made.story.storyline.summary.removeprefix("after ").split(": ")
    assert [class_in_text(part) for part in heard.split(", ")] == [sound.name for sound in made.opening.sounds]
    assert [class_in_text(part) for part in told.split(", ")] == [sound.name for sound in made.story.sounds]


@given(seeds, splits)
def test_an_ear_can_tell_the_opening(seed, split):
    opening = make_continuation(seed, split).opening
    for sound, event in zip(opening.sounds, opening.storyline.events, strict=True):
        assert sound.distance != "near"
        assert is_told_by_ear(sound, event.seconds)


@given(seeds, splits)
def test_texts_stay_short_and_whole(seed, split):
    story = make_continuation(seed, split).story
    assert len(story.instruction.text.split()) <= 36 + 9 * len(story.sounds)  # 31 is the most of 18,000
    assert len(story.storyline.summary.split()) <= 20
    assert not re.search(r"[{}|]|  | ,|\.\.", story.instruction.text)


@pytest.mark.parametrize("split", SPLITS)
def test_most_requests_refer_to_what_was_heard(split):
    made = continuations(split)
    refer = [any(index is not None for index in one.references) for one in made]
    assert sum(refer) / len(made) == pytest.approx(REFERRING_SHARE, abs=0.04)
    assert set(Counter(len(one.opening.sounds) for one in made)) == {1, 2, 3}
    assert set(Counter(len(one.story.sounds) for one in made)) == {1, 2, 3}
    no_total = sum(one.story.instruction.total_seconds is None for one in made)
    assert no_total / len(made) == pytest.approx(0.12, abs=0.04)


def test_the_place_is_told_in_about_half_of_the_requests_and_else_is_heard():
    places = {"room", "hall", "church", "tunnel", "outdoors", "outside", "air", "sky"}
    told = [bool(places & set(words_of(made.story.instruction.text))) for made in continuations("train")]
    assert 0.5 < sum(told) / len(told) < 0.75
    for made, is_told in zip(continuations("train"), told, strict=True):
        assert is_told or any(sound.count or sound.pace for sound in made.opening.sounds)


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_held_out_never_shows_in_train_or_val(split):
    for made in continuations(split):
        row = (*made.opening.sounds, *made.story.sounds)
        assert not made.story.unseen
        assert not held_out_sounds() & set(row)
        assert not held_out_pairs() & set(pairwise(sound.name for sound in row))
        assert not re.search(ONLY_IN_TEST, made.story.instruction.text.lower())


def test_every_test_continuation_holds_something_unseen_and_half_have_an_unseen_frame():
    met = Counter(what for made in continuations("test") for what in made.story.unseen)
    for made in continuations("test"):
        row = (*made.opening.sounds, *made.story.sounds)
        pairs = set(pairwise(sound.name for sound in row))
        assert bool(held_out_sounds() & set(row)) == ("combination" in made.story.unseen)
        assert bool(held_out_pairs() & pairs) == ("pair" in made.story.unseen)
        assert {"combination", "pair"} & set(made.story.unseen)
    assert any(re.search(ONLY_IN_TEST, made.story.instruction.text.lower()) for made in continuations("test"))
    assert met["frame"] / len(continuations("test")) == pytest.approx(0.5, abs=0.08)
    assert met["reference"] / len(continuations("test")) > 0.2
    assert met["mention"] / len(continuations("test")) > 0.1


def test_frames_and_references_held_out_are_others():
    for form in FRAMES:
        assert not set(FRAMES[form]) & set(UNSEEN_FRAMES[form])
        for phrases in (AGAIN, *WHOLES.values()):
            assert not set(getattr(phrases, form)) & set(getattr(phrases, f"unseen_{form}"))


def test_continuations_use_only_the_listed_words_and_test_only_those_of_train():
    listed = set(continuation_words())
    train, test = (
        {
            word
            for made in continuations(split, 2500)
            for text in (
                made.story.instruction.text,
                made.story.storyline.summary,
                *(
                    text
                    for event in made.story.storyline.events
                    for text in (event.caption, event.story_detail, event.sound_detail)
                ),
            )
            for word in words_of(text)
        }
        for split in ("train", "test")
    )
    assert train | test <= listed
    assert {word.lower() for word in test} <= {word.lower() for word in train} | set(words())
    assert {word for word in listed - set(words()) - train - test if word.islower()} == set()


def test_a_continuation_is_not_the_story_of_its_seed():
    for seed in range(20):
        made = [make_continuation(seed, split).story.cast.seed for split in SPLITS]
        made += [make_story(seed, split).cast.seed for split in SPLITS]
        assert len(set(made)) == len(made)


@pytest.mark.parametrize(("seed", "split"), [(-1, "train"), (0, "dev")])
def test_a_wrong_argument_is_named(seed, split):
    with pytest.raises(ValueError, match="a continuation needs a seed"):
        make_continuation(seed, split)
