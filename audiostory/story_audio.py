"""A told story: what was chosen, what was rendered, and the clips joined into one sound. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from audiostory import sound, timeline
from audiostory.model import solvers
from audiostory.sound import Waveform
from audiostory.story import Problem, ProblemKind, Storyline
from audiostory.timeline import Clip


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How a plan becomes sound: the choices of one call, with the model's own where the caller made none.

    `as_released` does it the released system's way: one clip per event, however long, all from the noise of seed 0, cut
    after int(seconds * rate) samples or where its latents end, joined by fades of full length or, where a clip is
    shorter, by none (SPEC 7 and 8). It makes stories that are not always as long as planned and is here for comparison.
    `steps` are the solver's, and `solver` one of `model.solvers`; each step of some costs two evaluations of the DiT.

    ValueError for values that cannot be meant.
    """

    seed: int
    steps: int
    guidance: float
    crossfade_seconds: float
    solver: str = "euler"
    as_released: bool = False

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed must be in 0 .. 2**63 - 1, got {self.seed}")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps must be in 1 .. 1000, got {self.steps}; 25 to 50 are usual")
        if not 1 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be 1 (off) or more, got {self.guidance}; 3 to 5 are usual")
        solvers.check(self.solver)
        if self.as_released and self.solver != "euler":
            raise ValueError(f"the release solves by euler, not {self.solver}; leave the solver or as_released out")

    def num_samples(self, clip: Clip, sample_rate: int, most: int) -> int:
        """Of a clip whose latents hold `most` samples."""
        if self.as_released:
            return min(most, int((clip.seconds + clip.fade_seconds) * sample_rate))
        return clip.num_samples(sample_rate)


@dataclass(frozen=True, kw_only=True)
class StoryAudio:
    """A told story: `story` is the `clips` joined, one per event.

    A clip is what was rendered: except the last, each sounds on for its fade after its end in `times` (start and end of
    every event in seconds).
    """

    storyline: Storyline
    rendering: Rendering
    clips: tuple[Waveform, ...]
    times: tuple[tuple[float, float], ...]
    story: Waveform
    problems: tuple[Problem, ...]

    def after(self, opening: Waveform) -> Waveform:
        """One sound of what was heard and the story that follows it, in the story's format.

        They are cross-faded as events are, so both together last a cross-fade less, or less still where one of them is
        shorter than that.
        """
        before = sound.resample(opening, self.story.sample_rate)
        if before.num_channels != self.story.num_channels:
            mono = before.samples.mean(axis=0, keepdims=True)
            before = replace(before, samples=np.repeat(mono, self.story.num_channels, axis=0))
        return sound.crossfade([before, self.story], self.rendering.crossfade_seconds, strict=False)

    def resample(self, sample_rate: int) -> StoryAudio:
        """The same story at another rate; clips are resampled before they are joined, as in the release (SPEC 8)."""
        clips = [sound.resample(clip, sample_rate) for clip in self.clips]
        if not self.rendering.as_released:
            clips = [
                timeline.fit(resampled, self._num_samples(clip, start, end, sample_rate))
                for resampled, clip, (start, end) in zip(clips, self.clips, self.times, strict=True)
            ]
        return replace(self, clips=tuple(clips), story=_join(clips, self.times, self.rendering))

    @staticmethod
    def _num_samples(clip: Waveform, start: float, end: float, sample_rate: int) -> int:
        fade = clip.num_samples - timeline.span(start, end, clip.sample_rate)
        return timeline.span(start, end, sample_rate) + fade * sample_rate // clip.sample_rate


def assemble(
    storyline: Storyline,
    rendering: Rendering,
    clips: Sequence[Clip],
    waveforms: Sequence[Waveform],
    problems: Sequence[Problem],
) -> StoryAudio:
    """The story of clips that are rendered; the parts of a long event become one clip again, which is a problem met."""
    rate = waveforms[0].sample_rate
    events, times, problems = [], [], list(problems)
    for event, group in groupby(zip(clips, waveforms, strict=True), key=lambda pair: pair[0].event):
        parts = list(group)
        first, last = parts[0][0], parts[-1][0]
        events.append(timeline.join([wave for _, wave in parts], [timeline.place(c.start, rate) for c, _ in parts]))
        times.append((first.start, last.end))
        if len(parts) > 1:
            problems.append(_made_of_parts(event, last.end - first.start, len(parts)))
    return StoryAudio(
        storyline=storyline,
        rendering=rendering,
        clips=tuple(events),
        times=tuple(times),
        story=_join(events, times, rendering),
        problems=tuple(problems),
    )


def _join(clips: Sequence[Waveform], times: Sequence[tuple[float, float]], rendering: Rendering) -> Waveform:
    if rendering.as_released:
        return sound.crossfade(clips, rendering.crossfade_seconds)
    return timeline.join(clips, [timeline.place(start, clips[0].sample_rate) for start, _ in times])


def _made_of_parts(event: int, seconds: float, num_parts: int) -> Problem:
    message = (
        f"event {event + 1} lasts {seconds:g} s, longer than one clip; it is made of {num_parts} clips, cross-faded"
    )
    return Problem(kind=ProblemKind.TOO_LONG, event=event + 1, message=message)
