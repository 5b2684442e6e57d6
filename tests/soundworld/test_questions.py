"""Questions have one right answer, which follows from what is heard, and their test wordings show nowhere else."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.soundworld.phrases import WORDS, sounds_in_caption
from audiostory.soundworld.questions import (
    KINDS,
    LEADS,
    MAX_QUESTIONS,
    ORDINALS,
    UNSEEN_SHARE,
    is_told_by_ear,
    make_quiz,
    question_words,
    reasoning,
)
from audiostory.soundworld.sounds import MAX_COUNT, Sound
from audiostory.soundworld.stories import SPLITS, class_in_text, make_story, words

seeds = st.integers(0, 2**40)
splits = st.sampled_from(SPLITS)


@cache
def questions(split, num_stories=1500):
    return [question for seed in range(num_stories) for question in make_quiz(seed, split).questions]


def words_of(text):
    return re.findall(r"[A-Za-z]+", text)


def heard_of(sounds):
    """What an ear can tell of sounds; nearness is not rendered."""
    return [(sound.name, sound.count, sound.pace, sound.level, sound.distance == "far") for sound in sounds]


def is_right(question, sounds):
    """Whether the answer fits the sounds, found by another way than it was made."""
    names = [sound.name for sound in sounds]
    told = [class_in_text(part) for part in question.answer.split(", ")]
    about = question.about
    match question.kind:
        case "caption":
            return heard_of(map(sounds_in_caption, question.answer.split("; then "))) == heard_of(sounds)
        case "sounds":
            return set(told) == set(names) and sorted(set(told), key=names.index) == told
        case "events":
            return len(names) == int(question.answer)
        case "position":
            return told == [names[-1 if about == ("last",) else ORDINALS.index(about[0])]]
        case "next":
            return [other for name, other in pairwise(names) if name == about[0]] == told
        case "previous":
            return [other for other, name in pairwise(names) if name == about[0]] == told
        case "presence":
            return (about[0] in names) == (question.answer == "yes")
        case "strokes":
            return [sound.count for sound in sounds if sound.name == about[0]] == [int(question.answer)]
        case "order":
            pair = [about[0], about[2]] if about[1] == "before" else [about[2], about[0]]
            return ([name for name in names if name in pair] == pair) == (question.answer == "yes")


@given(seeds, splits, st.integers(1, MAX_QUESTIONS))
def test_every_answer_is_what_is_heard(seed, split, num):
    quiz = make_quiz(seed, split, num)
    assert quiz.story == make_story(seed, split, "story")
    assert len(quiz.questions) == len({(question.kind, question.about) for question in quiz.questions}) == num
    for question in quiz.questions:
        assert is_right(question, quiz.story.sounds), question


@given(seeds, splits)
def test_what_could_be_meant_in_two_ways_is_not_asked(seed, split):
    quiz = make_quiz(seed, split, MAX_QUESTIONS)
    names = [sound.name for sound in quiz.story.sounds]
    for question in quiz.questions:
        if question.kind in ("next", "previous", "strokes", "order"):
            assert all(names.count(word) == 1 for word in question.about if word in WORDS)
        if question.kind == "caption":
            assert all(
                is_told_by_ear(sound, event.seconds)
                for sound, event in zip(quiz.story.sounds, quiz.story.storyline.events, strict=True)
            )


@given(seeds, splits, st.integers(1, MAX_QUESTIONS - 1))
def test_more_questions_leave_the_first_ones_as_they_are(seed, split, num):
    assert make_quiz(seed, split, num + 1).questions[:num] == make_quiz(seed, split, num).questions


@given(seeds, splits)
def test_a_question_names_what_it_is_about(seed, split):
    for question in make_quiz(seed, split).questions:
        named = [class_in_text(word) for word in words_of(question.text) if class_in_text(word)]
        assert list(dict.fromkeys(named)) == [word for word in question.about if word in WORDS]
        assert all(word in words_of(question.text.lower()) for word in question.about if word not in WORDS)


@given(seeds, splits)
def test_texts_stay_short_and_whole(seed, split):
    for question in make_quiz(seed, split).questions:
        assert len(question.text.split()) <= 20
        assert len(question.answer.split()) <= 70
        assert question.answer == question.answer.lower().strip()
        assert not re.search(r"[{}|]|  | ,|\.\.|\?.", question.text)


def test_every_kind_is_asked_and_yes_is_as_likely_as_no():
    for split in ("train", "test"):
        counts = Counter(question.kind for question in questions(split))
        assert set(counts) == set(KINDS)
        assert min(counts.values()) > 0.05 * len(questions(split))
        for kind in ("presence", "order"):
            answers = Counter(question.answer for question in questions(split) if question.kind == kind)
            assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.06)
            assert set(answers) == {"yes", "no"}


def test_no_answer_but_yes_and_no_is_a_good_guess():
    for kind in set(KINDS) - {"presence", "order"}:
        counts = Counter(question.answer for question in questions("train") if question.kind == kind)
        assert counts.most_common(1)[0][1] < 0.3 * counts.total()


def without_lead(text):
    text = text.lower().rstrip(".?")
    return next((text.removeprefix(lead) for lead in LEADS if text.startswith(lead)), text)


def wordings(kind, *, unseen):
    """What wordings look like, whatever they are about."""
    patterns = KINDS[kind].unseen if unseen else KINDS[kind].patterns
    return {re.compile(re.sub(r"\\\{\w+\\\}", "[a-z ]+", re.escape(pattern.rstrip(".?")))) for pattern in patterns}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_some_wordings_show_in_test_alone(kind):
    for split in SPLITS:
        asked = [question for question in questions(split) if question.kind == kind]
        for question in asked:
            text = without_lead(question.text)
            assert any(wording.fullmatch(text) for wording in wordings(kind, unseen=question.unseen)), text
            if not question.unseen:
                assert not any(wording.fullmatch(text) for wording in wordings(kind, unseen=True)), text
        share = sum(question.unseen for question in asked) / len(asked)
        assert share == pytest.approx(UNSEEN_SHARE if split == "test" else 0, abs=0.1 if split == "test" else 0)


def test_questions_use_only_the_listed_words_and_test_only_those_of_train():
    listed = set(question_words())
    train, test = (
        {word for question in questions(split) for text in (question.text, question.answer) for word in words_of(text)}
        for split in ("train", "test")
    )
    assert train | test <= listed
    assert {word.lower() for word in test} <= {word.lower() for word in train}
    assert set(words()) < listed
    assert {word for word in listed - set(words()) - train - test if word.islower()} == set()


def test_a_pace_is_told_by_ear_where_no_count_has_as_many_strokes():
    quick = Sound(name="drum", pace="quick")  # 0.66 s apart at an even pace, 0.41 s when quick
    assert [is_told_by_ear(quick, seconds) for seconds in (2.0, 2.7, 2.9, 8.0)] == [False, False, True, True]
    assert not is_told_by_ear(Sound(name="thunder", pace="slow"), 11.0)
    assert is_told_by_ear(Sound(name="thunder", count=MAX_COUNT), 2.0)


@pytest.mark.parametrize(
    "arguments", [(-1, "train", 4), (0, "dev", 4), (0, "train", 0), (0, "train", MAX_QUESTIONS + 1)]
)
def test_a_wrong_argument_is_named(arguments):
    with pytest.raises(ValueError, match=r"a story needs a seed|expected 1 to"):
        make_quiz(*arguments)


def test_the_reasoning_before_an_answer_tells_every_sound_in_order_and_what_the_ear_can_tell_of_it():
    for quiz in (make_quiz(seed) for seed in range(200)):
        for question in quiz.questions:
            lines = [line for line in reasoning(quiz.story, question).split("\n") if not line.startswith("asked: ")]
            for number, (line, sound, event) in enumerate(
                zip(lines, quiz.story.sounds, quiz.story.storyline.events, strict=True), 1
            ):
                before, _, caption = line.rpartition(", ")
                marks = ["asked for,"] * (sound.name in question.about[:1]) + ["the other,"] * (
                    sound.name in question.about[1:]
                )
                marks += ["again,"] * (sound.name in [one.name for one in quiz.story.sounds[: number - 1]])
                comma = "," if marks else ""
                assert before == " ".join([f"{number}.", WORDS[sound.name].short + comma, *marks, str(number)])
                assert class_in_text(caption) == sound.name
                if not is_told_by_ear(sound, event.seconds):
                    assert sounds_in_caption(caption) is None, "neither count nor pace, which no caption of stories has"
                else:
                    heard = replace(sound, distance=None if sound.distance == "near" else sound.distance)
                    assert sounds_in_caption(caption) == heard


def test_what_is_asked_for_is_found_in_the_reasoning_before_it_is_answered():
    for quiz in (make_quiz(seed, num=MAX_QUESTIONS) for seed in range(100)):
        for question in quiz.questions:
            *lines, last = reasoning(quiz.story, question).split("\n")
            asked = last.removeprefix("asked: ").split(", ")
            match question.kind:
                case "caption" | "sounds" | "events":
                    assert not last.startswith("asked: ")
                case "position":
                    assert asked[0].split(". ")[1] == question.answer
                case "next" | "previous":
                    assert asked[1].split(". ")[1] == question.answer
                case "presence":
                    assert asked[0].endswith(" none") == (question.answer == "no")
                case "strokes":
                    name, number = asked[0].rsplit(" ", 1)
                    assert lines[int(number) - 1].startswith(f"{number}. {name}, asked for, {number}, ")
                case "order":
                    one, other = (name.rsplit(" ", 1) for name in asked)
                    assert lines[int(one[1]) - 1].startswith(f"{one[1]}. {one[0]}, asked for, ")
                    assert lines[int(other[1]) - 1].startswith(f"{other[1]}. {other[0]}, the other, ")
                    assert (int(one[1]) < int(other[1])) == (
                        (question.about[1] == "before") == (question.answer == "yes")
                    )
