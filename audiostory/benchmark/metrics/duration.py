"""Is a story as long as it was asked to be, and as it was planned? In seconds, so that nobody's taste is in it.

The paper calls duration a strength and measures it nowhere; in its own figure a plan misses its total (PAPER 4, 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiostory.benchmark.intervals import Score, bootstrap


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Of one story, in seconds: what was `asked` (None: nothing), what the system `planned` for each event (None: it
    does not plan), what the whole `measured`, and how long the `clips` are, if there are any. A story that could not be
    told measures 0, and its plan, if the system plans, has no events. ValueError for clips that are not one per event.
    """

    asked: float | None
    planned: tuple[float, ...] | None
    measured: float
    clips: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.clips and self.planned is not None and len(self.clips) != len(self.planned):
            raise ValueError(f"{len(self.clips)} clips for {len(self.planned)} planned events; expected one for each")


def score_durations(stories: Sequence[Lengths]) -> dict[str, Score]:
    """Mean errors: of the asked length where one was asked, of plans where there are any, of events that have clips."""
    asked = [(story, story.asked) for story in stories if story.asked is not None]
    plans = [(story, story.planned) for story in stories if story.planned is not None]
    return {
        "length: asked and measured (s)": bootstrap([abs(story.measured - length)] for story, length in asked),
        "length: asked and measured (share)": bootstrap(
            [abs(story.measured - length) / length] for story, length in asked
        ),
        "length: asked and planned (s)": bootstrap(
            [abs(sum(planned) - story.asked)] for story, planned in plans if story.asked is not None
        ),
        "length: planned and measured (s)": bootstrap(
            [abs(sum(planned) - story.measured)] for story, planned in plans if planned
        ),
        "event: planned and rendered (s)": bootstrap(
            [abs(lasts - seconds) for lasts, seconds in zip(rendered(story), planned, strict=True)]
            for story, planned in plans
            if story.clips
        ),
    }


def rendered(story: Lengths) -> list[float]:
    """How long each event lasts until the next one takes over: its clip, less what the cross-fade eats of it.

    That is the same at every join, namely what all clips together are longer than the whole; where they are shorter
    there is silence between them, and no fade. Clips of 5.5, 5.5 and 5.0 s in a story of 15.0 s are events of 5 s.
    """
    num_joins = len(story.clips) - 1
    fade = max(0.0, sum(story.clips) - story.measured) / num_joins if num_joins > 0 else 0.0
    return [clip - fade for clip in story.clips[:-1]] + list(story.clips[-1:])
