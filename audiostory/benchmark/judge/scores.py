"""Figures out of answers. A story's figure is the median over its calls, so one odd answer does not move it; how far
the calls lie apart is a figure of its own. A story without an answer is in no mean, and n tells; one that its system
could not tell counts 0, as it does wherever stories are scored, so that failing on the hard ones raises no mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.judge.calls import Call
from audiostory.benchmark.judge.prompts import AXES, RUBRIC

Rows = Mapping[str, Mapping[str, Any]]  # the journal's


def axis_scores(axis: str, calls: Sequence[Call], rows: Rows, num_untold: int = 0) -> dict[str, Score]:
    """The axis (of each call the mean of its criteria, 0 to 5), its criteria, and the distance between the highest and
    the lowest call of a story, for stories that were judged at least twice."""
    stories = [[row["scores"] for row in answers] for answers in _by_story(axis, calls, rows)]

    def over_stories(figure: Callable[[list[dict[str, int]]], float]) -> Score:
        return bootstrap([*([figure(answers)] for answers in stories), *[[0.0]] * num_untold])

    scores = {axis: over_stories(lambda answers: median(_means(answers)))}
    for name in AXES[axis].criteria:
        scores[f"{axis}: {name}"] = over_stories(lambda answers, name=name: median(one[name] for one in answers))
    scores[f"{axis}: mean over calls"] = over_stories(lambda answers: fmean(_means(answers)))
    scores[f"{axis}: spread over calls"] = bootstrap(
        [max(_means(answers)) - min(_means(answers))] for answers in stories if len(answers) > 1
    )
    return scores


def rubric_scores(calls: Sequence[Call], rows: Rows, num_untold: int = 0) -> dict[str, Score]:
    """The share of a story's items that most of their calls answered with yes (a tie counts one half), and the share
    of items, among those asked at least twice, whose calls disagree."""
    satisfied, disagreeing = [], []
    for answers in _by_story(RUBRIC, calls, rows):
        said: dict[str, list[bool]] = {}
        for row in answers:
            for item, yes in row["answers"].items():
                said.setdefault(item, []).append(yes)
        satisfied.append([fmean(median(votes) for votes in said.values())])
        disagreeing.append([len(set(votes)) > 1 for votes in said.values() if len(votes) > 1])
    return {
        "rubric satisfaction": bootstrap([*satisfied, *[[0.0]] * num_untold]),
        "rubric: calls disagree": bootstrap(disagreeing),
    }


def _by_story(axis: str, calls: Sequence[Call], rows: Rows) -> list[list[Mapping[str, Any]]]:
    """The answers about each story that has any."""
    stories: dict[str, list[Mapping[str, Any]]] = {}
    for call in calls:
        if call.axis == axis and call.key in rows:
            stories.setdefault(call.story, []).append(rows[call.key])
    return list(stories.values())


def _means(answers: Sequence[Mapping[str, int]]) -> list[float]:
    return [fmean(answer.values()) for answer in answers]
