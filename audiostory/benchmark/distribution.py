"""Do a system's clips sound as the true ones do, taken all together? FD, FAD and KL of the paper for the sound world.

The published networks know nothing of the sound world, so the ear is the embedder. Its name stands in the names of the
measures, for figures by different embedders do not compare. No torch here.

Two of them are distances between sets: all clips of a system, all true clips, whatever story they belong to. Shuffling
stories changes nothing about them, so that column has none. The third goes through the events of the truth as the
measures of `soundworld.py` do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.metrics.divergence import LARGEST, divergence_of_rows
from audiostory.benchmark.metrics.frechet import frechet_distance
from audiostory.benchmark.metrics.kernel import kernel_distance
from audiostory.benchmark.metrics.sets import few_vectors, unequal_numbers
from audiostory.benchmark.soundworld import Answers, others

FD, KAD, KL = "ear FD", "ear KAD", "ear KL (truth || told)"


def score_likeness(answers: Answers, truth: Answers) -> dict[str, Score]:
    """The Fréchet and the kernel distance of all clips from all true clips, and the divergence of what is heard in each
    event; less is better everywhere.

    Both sides are heard by the same ear, story by story. The `num` of a distance is the number of true clips. A system
    with fewer than two clips has no distances (NaN). Clips that nobody asked for count in the distances alone. Against
    itself the truth has 0 everywhere but in the kernel distance, which is 0 on average for another sample of the same
    source, and a little below for the same one.
    """
    told, true = _features(answers), _features(truth)
    fd = kad = float("nan")
    if min(len(told), len(true)) > 1:
        fd, kad = frechet_distance(told, true), kernel_distance(told, true).value
    return {FD: _of_sets(fd, len(true)), KAD: _of_sets(kad, len(true)), KL: _divergence(answers, truth)}


def shuffled_likeness(truth: Answers, seed: int = 0) -> dict[str, Score]:
    """The floor that belongs to `soundworld.shuffled_scores` with the same seed: each story beside another one's truth.

    As sets, shuffled stories are the true ones, so of the distances there is none.
    """
    return {KL: _divergence([truth[partner] for partner in others(len(truth), seed)], truth)}


def likeness_notes(answers: Answers, truth: Answers) -> list[str]:
    """What a reader of a system's distances must know: that the numbers of clips differ, or that they are few."""
    told, true, notes = _count(answers), _count(truth), []
    if min(told, true) < 2:
        return [f"{told} clips told and {true} true ones: too few for {FD} and {KAD}"]
    if note := unequal_numbers(told, true, "clips"):
        notes.append(f"{FD}, {KAD}: {note}")
    if note := few_vectors(told, true, _features(truth).shape[1], FD):
        notes.append(note)
    return notes


def event_divergences(heard: Answers, truth: Answers) -> list[list[float]]:
    """For each event of each true story, in nats, how little of what the ear hears in the true clip it hears in the
    clip told in its place. An event that was not told counts as the worst that can be told, LARGEST: to tell nothing is
    never better than to tell something else."""
    from scipy.special import softmax

    rows = []
    for told, true in zip(heard, truth, strict=True):
        pairs = list(zip(told, true, strict=False))
        values = np.full(len(true), LARGEST)
        if pairs:
            shares = softmax(np.array([[one.logits, other.logits] for one, other in pairs], np.float64), axis=-1)
            # What is added to the shares of the told clip puts a clip a millionth below itself.
            values[: len(pairs)] = divergence_of_rows(shares[:, 1], shares[:, 0]).clip(min=0)
        rows.append(values.tolist())
    return rows


def _divergence(answers: Answers, truth: Answers) -> Score:
    return bootstrap(event_divergences(answers, truth))


def _of_sets(value: float, num: int) -> Score:
    return Score(mean=value, low=float("nan"), high=float("nan"), num=num)


def _features(answers: Answers) -> Float[np.ndarray, "N D"]:
    return np.array([heard.features for story in answers for heard in story])


def _count(answers: Answers) -> int:
    return sum(map(len, answers))
