"""Do the events of a story belong together? Cosines of the embeddings of their sounds, beside those of other stories.

A system that always makes the same sound is consistent to the last digit, so a cosine within stories means nothing by
itself: what counts is how much more alike the events of one story are than events of different stories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.metrics.retrieval import unit


@dataclass(frozen=True, kw_only=True)
class ConsistencyScores:
    """`left_out` are the stories with fewer than two events that have a sound."""

    scores: dict[str, Score]
    left_out: tuple[str, ...]


def score_consistency(stories: Mapping[str, Shaped[np.ndarray, "E D"]]) -> ConsistencyScores:
    """Means over stories of the cosines between neighbouring events, all events of the story, and its events and those
    of all others; of the difference of the last two; and of the spread of timbre.

    A story, by its id, has a row per event, in order. One without sound is a row of NaN and is skipped, and the events
    around it are no neighbours. The spread is the root of the mean squared distance of the events' unit vectors from
    their mean: 0 when all sound the same, near 1 when they have nothing in common.
    """
    units = {id: unit(story) for id, story in stories.items()}
    heard = {id: story[np.isfinite(story).all(-1)] for id, story in units.items()}
    kept = [id for id, events in heard.items() if len(events) > 1]
    total, num = sum((events.sum(0) for events in heard.values()), np.zeros(1)), sum(map(len, heard.values()))
    within, across, neighbours, spread = [], [], [], []
    for id in kept:
        events, own = heard[id], heard[id].sum(0)
        count, alike = len(events), float(own @ own)
        # The sum over all ordered pairs is the square of the sum; each vector with itself gives its own square.
        within.append([(alike - float((events**2).sum())) / (count * (count - 1))])
        others = num - count
        across.append([float(own @ (total - own)) / (count * others)] if others else [])
        steps = (units[id][:-1] * units[id][1:]).sum(-1)
        neighbours.append([float(np.mean(steps[np.isfinite(steps)]))] if np.isfinite(steps).any() else [])
        spread.append([float(np.sqrt(((events - events.mean(0)) ** 2).sum(-1).mean()))])
    return ConsistencyScores(
        scores={
            "neighbouring events alike (cosine)": bootstrap(neighbours),
            "events of a story alike (cosine)": bootstrap(within),
            "events of different stories alike (cosine)": bootstrap(across),
            "more alike within a story than between (cosine)": bootstrap(
                [one[0] - other[0]] for one, other in zip(within, across, strict=True) if other
            ),
            "spread of timbre within a story": bootstrap(spread),
        },
        left_out=tuple(id for id, events in heard.items() if len(events) < 2),
    )
