"""Figures with known answers, and what a price list makes of the questions."""

from pathlib import Path

import pytest

from audiostory.benchmark.judge.calls import Call
from audiostory.benchmark.judge.cost import Price, estimate, read_prices
from audiostory.benchmark.judge.prompts import AXES
from audiostory.benchmark.judge.scores import axis_scores, rubric_scores

CRITERIA = tuple(AXES["coherence"].criteria)


def call(story: str, number: int, axis: str = "coherence", seconds: float = 0.0, prompt: str = "", items=()) -> Call:
    return Call(
        key=f"{story} {axis} {number} {items}",
        story=story,
        axis=axis,
        number=number,
        prompt=prompt,
        audio=Path("x.wav") if seconds else None,
        seconds=seconds,
        expected=tuple(items),
    )


def judged(scores: dict[str, list[list[int]]]):
    """Calls and their answers: for each story and call the four criteria."""
    calls = [call(story, number) for story, answers in scores.items() for number in range(len(answers))]
    rows = {
        call(story, number).key: {"scores": dict(zip(CRITERIA, answer, strict=True))}
        for story, answers in scores.items()
        for number, answer in enumerate(answers)
        if answer
    }
    return calls, rows


def test_a_story_is_the_median_of_its_calls_and_stories_are_averaged():
    calls, rows = judged({"a": [[5, 5, 5, 5], [4, 4, 4, 4], [0, 0, 0, 0]], "b": [[2, 2, 2, 2]] * 3})
    scores = axis_scores("coherence", calls, rows)
    assert scores["coherence"].mean == pytest.approx((4 + 2) / 2)
    assert scores["coherence: mean over calls"].mean == pytest.approx((3 + 2) / 2)
    assert scores["coherence: spread over calls"].mean == pytest.approx((5 + 0) / 2)
    assert scores["coherence"].num == 2
    assert scores["coherence"].low == pytest.approx(2)
    assert scores["coherence"].high == pytest.approx(4)


def test_each_criterion_has_its_own_figure_and_their_mean_is_the_axis():
    calls, rows = judged({"a": [[5, 4, 3, 0]]})
    scores = axis_scores("coherence", calls, rows)
    assert [scores[f"coherence: {name}"].mean for name in CRITERIA] == [5, 4, 3, 0]
    assert scores["coherence"].mean == pytest.approx(3)
    assert scores["coherence: spread over calls"].num == 0  # one call has no spread


def test_a_missing_answer_is_left_out_and_is_no_zero():
    calls, rows = judged({"a": [[4, 4, 4, 4], [], []], "b": [[], [], []]})
    score = axis_scores("coherence", calls, rows)["coherence"]
    assert (score.mean, score.num) == (4, 1)


def test_rubric_satisfaction_is_the_share_of_items_that_most_calls_affirm():
    votes = {"a": {"rain?": [True, True, False], "dog?": [False, False, False]}, "b": {"bell?": [True, False]}}
    calls, rows = [], {}
    for story, items in votes.items():
        for item, said in items.items():
            for number, yes in enumerate(said):
                one = call(story, number, "rubric", items=[item])
                calls.append(one)
                rows[one.key] = {"answers": {item: yes}}
    scores = rubric_scores(calls, rows)
    assert scores["rubric satisfaction"].mean == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["rubric satisfaction"].num == 2
    assert scores["rubric: calls disagree"].mean == pytest.approx(2 / 3)


def test_what_could_not_be_told_counts_nothing_but_counts():
    one = call("a", 0, "coherence")
    name = next(iter(AXES["coherence"].criteria))
    rows = {one.key: {"scores": dict.fromkeys(AXES["coherence"].criteria, 4)}}
    scores = axis_scores("coherence", [one], rows, num_untold=1)
    assert [(scores[key].mean, scores[key].num) for key in ("coherence", f"coherence: {name}")] == [(2.0, 2)] * 2
    assert scores["coherence: spread over calls"].num == 0
    asked = call("a", 0, "rubric", items=["x"])
    share = rubric_scores([asked], {asked.key: {"answers": {"x": True}}}, num_untold=3)["rubric satisfaction"]
    assert (share.mean, share.num) == (0.25, 4)


def test_an_estimate_adds_up():
    calls = [call("a", n, seconds=30, prompt="x" * 400) for n in range(10)]
    price = Price(text=1.0, audio=2.0, written=10.0, thought_tokens=890, audio_tokens_per_second=10)
    found = estimate(calls, price)
    assert (found.num_calls, found.audio_minutes, found.text_tokens, found.audio_tokens) == (10, 5, 1000, 3000)
    assert found.written_tokens == 10 * (110 + 890)
    assert found.dollars == pytest.approx((1000 * 1 + 3000 * 2 + 10_000 * 10) / 1e6)
    assert "about $0.11" in str(found)
    assert "price not known" in str(estimate(calls, None))


def test_a_table_of_prices_is_read_and_checked(tmp_path):
    file = tmp_path / "prices.json"
    file.write_text('{"m": {"text": 1, "audio": 2, "written": 3}}')
    assert read_prices(file) == {"m": Price(text=1, audio=2, written=3)}
    for content in ("[]", '{"m": 3}', '{"m": {"text": 1}}', '{"m": {"text": -1, "audio": 2, "written": 3}}', "{"):
        file.write_text(content)
        with pytest.raises(ValueError, match="prices"):
            read_prices(file)
