"""Scores of answers and continuations made by hand, where every figure can be counted on fingers, and the guesses that
do not listen."""

import json
import math

import pytest
from benchmark.cases import told, truth

from audiostory.benchmark.items import ToldStory, as_told, read_truth
from audiostory.benchmark.listening import (
    Question,
    guessed_continuations,
    most_frequent_answers,
    normalised,
    read_answers,
    read_questions,
    score_answers,
    score_continuations,
    shuffled_answers,
    shuffled_continuations,
)
from audiostory.soundworld.corpus import write_corpus


def question(id, kind, answer, story=0, unseen=False):
    return Question(id=id, kind=kind, text="?", answer=answer, recording=None, story=story, unseen=unseen)


def means(scores):
    return {name: score.mean for name, score in scores.items() if score.num}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Manifests of questions and of continuations."""
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder / "questions", kind="question", split="test", num=60, audio=False)
    write_corpus(folder / "continuations", kind="continuation", split="test", num=150, audio=False)
    return folder / "questions" / "manifest.jsonl", folder / "continuations" / "manifest.jsonl"


def test_questions_are_read_with_their_truth(tmp_path):
    write_corpus(tmp_path / "q", kind="question", split="test", num=2, seed=5)
    questions = read_questions(tmp_path / "q" / "manifest.jsonl")
    assert [entry.id for entry in questions[:5]] == [
        *(f"test-question-000005-{k}" for k in range(4)),
        "test-question-000006-0",
    ]
    assert [entry.story for entry in questions] == [5] * 4 + [6] * 4
    assert all(entry.recording.is_file() for entry in questions)
    assert len({entry.recording for entry in questions}) == 2


def test_right_answers_score_one_everywhere_whatever_their_case_and_punctuation(corpora):
    questions = read_questions(corpora[0])
    scores = score_answers(questions, [f" {entry.answer.capitalize().replace(', ', ' ,')}. " for entry in questions])
    assert set(means(scores).values()) == {1.0}
    assert scores["answers right"].num == len(questions)


def test_answers_are_compared_by_their_words():
    assert normalised(" A dog,  rain.") == "a dog rain"
    assert normalised("3") != normalised("13")


def test_each_kind_and_wording_is_counted_for_itself():
    questions = [
        question("a", "events", "3"),
        question("b", "events", "4", unseen=True),
        question("c", "position", "a dog", story=1),
        question("d", "caption", "a dog barks", story=2),
    ]
    scores = score_answers(questions, ["3", "3", "a bell", "a dog barks"])
    found = means(scores)
    assert {name: found[name] for name in found if not name.startswith("caption:")} == {
        "answers right": 0.5,
        "answers right, captions apart": pytest.approx(1 / 3),
        "answers right, known wording": pytest.approx(2 / 3),
        "answers right, unseen wording": 0.0,
        "events right": 0.5,
        "position right": 0.0,
        "caption right": 1.0,
    }
    assert math.isnan(scores["order right"].mean)


def test_always_yes_is_worth_a_half_however_many_are_yes():
    questions = [question(str(k), "presence", "no" if k % 4 else "yes", story=k) for k in range(40)]
    scores = score_answers(questions, ["yes"] * 40)
    assert scores["presence right"].mean == 0.25
    balanced = scores["presence right, yes and no alike"]
    assert (balanced.mean, balanced.num) == (0.5, 40)
    mixed = score_answers(questions, ["yes" if k % 2 else question.answer for k, question in enumerate(questions)])
    assert mixed["presence right, yes and no alike"].mean == pytest.approx((1 + 1 / 3) / 2)
    assert mixed["presence right, yes and no alike"].low < 2 / 3 < mixed["presence right, yes and no alike"].high


def test_questions_about_one_story_share_its_fate():
    alone = [question(str(k), "events", "1", story=k) for k in range(60)]
    four = [question(f"{k}-{n}", "events", "1", story=k) for k in range(60) for n in range(4)]
    one, many = score_answers(alone, ["1", "2"] * 30), score_answers(four, (["1"] * 4 + ["2"] * 4) * 30)
    assert (one["events right"].low, one["events right"].high) == (many["events right"].low, many["events right"].high)


@pytest.mark.parametrize(
    ("told_caption", "is_order_right", "share"),
    [
        ("rain comes down; then a dog barks twice; then a bell rings once", 1, 1),
        ("heavy rain, dogs barking, a bell.", 1, 1),
        ("rain; then a bell rings; then a dog barks", 0, 2 / 3),
        ("rain comes down; then a dog barks twice", 0, 2 / 3),
        ("rain then a dog then a bell then an owl", 0, 3 / 4),
        ("something", 0, 0),
        ("", 0, 0),
    ],
)
def test_captions_are_scored_by_their_sounds_too(told_caption, is_order_right, share):
    asked = question("a", "caption", "rain comes down; then a dog barks twice; then a bell rings once")
    scores = means(score_answers([asked], [told_caption]))
    assert scores["caption: order of sounds right"] == is_order_right
    assert scores["caption: sounds in the right order"] == pytest.approx(share)


def test_the_most_frequent_answer_of_training_is_given_by_kind():
    training = [question(str(k), "events", answer) for k, answer in enumerate("3323")]
    training += [question("p", "presence", "no")]
    asked = [question("a", "presence", "yes"), question("b", "events", "4"), question("c", "position", "a dog")]
    assert most_frequent_answers(training, asked) == ["no", "3", ""]


def test_shuffled_answers_come_from_other_stories_and_the_same_kind():
    asked = [question(str(k), "events", str(k // 2), story=k // 2) for k in range(8)]
    asked += [question("p", "presence", "yes", story=9)]
    for seed in range(5):
        answers = shuffled_answers(asked, seed)
        assert answers.pop() == ""
        assert all(
            answer in {"0", "1", "2", "3"} - {entry.answer} for answer, entry in zip(answers, asked, strict=False)
        )


def test_who_does_not_listen_scores_no_more_than_chance(corpora):
    questions = read_questions(corpora[0])
    for answers in (most_frequent_answers(questions, questions), shuffled_answers(questions)):
        scores = score_answers(questions, answers)
        assert scores["answers right"].mean < 0.3
        assert scores["caption right"].mean < 0.1
        assert scores["answers right"].num == len(questions)


def write_lines(file, rows):
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def test_answers_are_read_in_any_order(tmp_path):
    asked = [question("a", "events", "1"), question("b", "events", "2")]
    file = write_lines(tmp_path / "answers.jsonl", [{"id": "b", "answer": "2"}, {"id": "a", "answer": ""}])
    assert read_answers(file, asked) == ["", "2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "answer": "1"}], "1 of 2 answers are missing"),
        ([{"id": "a", "answer": "1"}, {"id": "b", "answer": "1"}, {"id": "c", "answer": "1"}], "1 were not asked for"),
        ([{"id": "a", "answer": "1"}, {"id": "a", "answer": "1"}], "line 2: .*not the first"),
        ([{"id": "a", "answer": 1}], "line 1: .*no text"),
        ([{"id": "a"}], "line 1 is no answer"),
        (["a"], "line 1 is no answer"),
    ],
)
def test_answers_that_are_none_are_named(tmp_path, rows, message):
    asked = [question("a", "events", "1"), question("b", "events", "2")]
    with pytest.raises(ValueError, match=message):
        read_answers(write_lines(tmp_path / "answers.jsonl", rows), asked)


def test_what_is_no_manifest_of_questions_is_named(tmp_path, corpora):
    with pytest.raises(ValueError, match="--kind question"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="line 1 is no question"):
        read_questions(corpora[1])
    with pytest.raises(ValueError, match="holds no questions"):
        read_questions(write_lines(tmp_path / "empty.jsonl", []))
    row = json.loads(corpora[0].read_text().splitlines()[0])
    with pytest.raises(ValueError, match="line 2: the id"):
        read_questions(write_lines(tmp_path / "twice.jsonl", [row, row]))
    (tmp_path / "torn.jsonl").write_text('{"id": ')
    with pytest.raises(ValueError, match="line 1 is no JSON"):
        read_questions(tmp_path / "torn.jsonl")


def continuation(id, opening, references, named=()):
    """A true continuation; `named` are the sounds for the references that are None."""
    rest = iter(named)
    names = [next(rest) if index is None else opening[index] for index in references]
    story = truth(id, names)
    captions = truth(id, opening).events
    return type(story)(
        **{**vars(story), "opening": tuple(event.caption for event in captions), "references": tuple(references)}
    )


def test_what_was_referred_to_is_scored_apart_from_what_was_named():
    truths = [continuation("a", ["dog", "rain"], [0, None], ["bell"]), continuation("b", ["dog"], [None], ["rain"])]
    scores = means(score_continuations(truths, [told("a", ["rain", "bell"]), told("b", ["rain"])]))
    assert scores["event count right"] == 1.0
    assert scores["order of sounds right"] == 0.5
    assert scores["order of sounds right, some referred to"] == 0.0
    assert scores["order of sounds right, all named"] == 1.0
    assert scores["sound planned right, referred to"] == 0.0
    assert scores["sound planned right, named"] == 1.0
    assert scores["caption right to the letter, referred to"] == 0.0


def test_a_continuation_that_could_not_be_told_is_wrong_in_every_measure():
    truths = [continuation("a", ["dog", "rain"], [0, None], ["bell"])]
    scores = means(score_continuations(truths, [ToldStory(id="a")]))
    assert scores.pop("length error (s)") == 10.0
    assert set(scores.values()) == {0.0}


def test_the_guess_names_what_openings_have_most():
    training = [continuation("t", ["rain", "dog", "rain"], [0])]
    truths = [continuation("a", ["bell", "dog"], [1, None, 0], ["owl"])]
    (guess,) = guessed_continuations(training, truths)
    assert guess.captions == ("rain comes down", "an owl hoots", "rain comes down")
    with pytest.raises(ValueError, match="no openings"):
        guessed_continuations([truth("s", ["dog"])], truths)


def test_a_shuffled_reference_is_another_openings_sound():
    truths = [
        continuation("a", ["bell", "dog"], [1, None], ["owl"]),
        continuation("b", ["rain", "owl"], [0]),
        continuation("c", ["dog"], [0]),
    ]
    captions = [story.captions for story in shuffled_continuations(truths)]
    assert captions == [("an owl hoots", "an owl hoots"), ("a bell rings once",), ("",)]


def test_continuations_of_the_corpus_can_be_scored_and_not_be_guessed(corpora):
    truths = read_truth(corpora[1])
    perfect = score_continuations(truths, [as_told(story, ()) for story in truths])
    shares = means(perfect)
    assert shares.pop("length error (s)") == pytest.approx(0)
    assert set(shares.values()) == {1.0}
    for stories in (guessed_continuations(truths, truths), shuffled_continuations(truths)):
        scores = score_continuations(truths, stories)
        assert scores["order of sounds right, some referred to"].mean < 0.08
        assert scores["order of sounds right, all named"].mean == 1.0
        assert {name: score.num for name, score in scores.items()} == {name: s.num for name, s in perfect.items()}
