"""Are questions about recordings answered right? Accuracy, and balanced accuracy, to which one and the same answer to
everything is worth no more than one class.

An answer is right when `normalised` makes the same words of it and of the truth: case, space and punctuation
do not matter, everything else does ("yes, it does" is not "yes"). It is the rule of the sound world's questions too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from audiostory.benchmark.intervals import Score, bootstrap, grouped

YES_NO = {"yes", "no"}


def normalised(answer: str) -> str:
    """What two answers are compared by: " A dog,  rain." is "a dog rain"."""
    return " ".join(re.findall(r"[a-z0-9]+", answer.lower()))


def score_question_answering(
    truths: Sequence[str], answers: Sequence[str], recordings: Sequence[Hashable], seed: int = 0
) -> dict[str, Score]:
    """Accuracy and balanced accuracy of all answers, and of those whose truth is yes or no.

    Question i is about `recordings[i]`; the questions about one are resampled together. ValueError for lists of
    different lengths, and a truth without any letter or digit that could be compared.
    """
    if not len(truths) == len(answers) == len(recordings):
        raise ValueError(f"got {len(truths)} truths, {len(answers)} answers and {len(recordings)} recordings for them")
    wanted = [normalised(truth) for truth in truths]
    if "" in wanted:
        raise ValueError(f"the truth {truths[wanted.index('')]!r} has no letter a to z and no digit to compare")
    right = [normalised(answer) == truth for answer, truth in zip(answers, wanted, strict=True)]
    every, binary = list(range(len(wanted))), [i for i, truth in enumerate(wanted) if truth in YES_NO]
    scores = {}
    for name, asked in (("all", every), ("yes or no", binary)):
        hits = [right[i] for i in asked]
        of, about = [wanted[i] for i in asked], [recordings[i] for i in asked]
        scores[f"accuracy, {name}"] = bootstrap(grouped(hits, about), seed)
        scores[f"balanced accuracy, {name}"] = balanced_accuracy(of, hits, about, seed)
    return scores


def balanced_accuracy(
    classes: Sequence[str], right: Sequence[bool], groups: Sequence[Hashable], seed: int = 0, rounds: int = 2000
) -> Score:
    """The mean over classes of the share that is right among them, with an interval from whole groups resampled.

    A draw without any of some class is the mean over the others. NaN when there are none.
    """
    if not classes:
        return bootstrap([])
    of, about, hits = _numbered(classes), _numbered(groups), np.asarray(right, dtype=np.float64)
    num = int(about.max()) + 1
    picks = np.random.default_rng(seed).integers(0, num, (rounds, num))
    drawn = [_mean_recall(of, hits, np.bincount(pick, minlength=num)[about]) for pick in picks]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(mean=_mean_recall(of, hits, np.ones(len(hits))), low=float(low), high=float(high), num=len(hits))


def _numbered(names: Sequence[Hashable]) -> Int[np.ndarray, Q]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _mean_recall(of: Int[np.ndarray, Q], hits: Float[np.ndarray, Q], times: Shaped[np.ndarray, Q]) -> float:
    """Of questions that count so many `times` each."""
    num = np.bincount(of, weights=times)
    return float((np.bincount(of, weights=times * hits)[num > 0] / num[num > 0]).mean())
