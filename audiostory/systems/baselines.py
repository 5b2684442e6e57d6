"""The baselines of the paper's table 1: text-to-audio alone, behind a planner, and behind the true captions.

Their clips stand one after the other, without a cross-fade. An event that is longer than the text-to-audio model's
longest clip is made that long, and the story is then shorter than planned: stretching it by parts would be a system
that nobody has. The plan stays as it was, beside the times at which things sound, and what was shortened stands among
the story's problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from audiostory import timeline
from audiostory.pipeline import StoryError
from audiostory.sound import Waveform
from audiostory.story import Event, Problem, ProblemKind, Storyline
from audiostory.story_audio import Rendering, StoryAudio, assemble
from audiostory.systems.asked import Asked, story_seed
from audiostory.systems.ours import Ours, checked


class TextToAudio(Protocol):
    """OurTextToAudio, DiffusersTextToAudio. `settings` are known before a network is loaded."""

    settings: dict[str, Any]
    steps: int
    guidance: float

    @property
    def longest_seconds(self) -> float:
        """Of one clip."""
        ...

    def sounds(self, captions: Sequence[str], seconds: Sequence[float], seeds: Sequence[int]) -> list[Waveform]:
        """A clip per caption, all of one format, as long as asked but for a sample. The same seed, the same clip."""
        ...


class WholeCaption:
    """No planner: the story's caption as one clip, of the seconds asked, or of the longest if none or more are."""

    def __init__(self, text_to_audio: TextToAudio, *, seed: int = 0) -> None:
        self._text_to_audio, self._seed = text_to_audio, seed

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"kind": "whole caption", "seed": self._seed, **self._text_to_audio.settings}

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio]:
        for one in asked:
            seconds = one.instruction.total_seconds or self._text_to_audio.longest_seconds
            storyline = Storyline(summary=one.caption, events=(Event(caption=one.caption, seconds=seconds),))
            yield _told(storyline, self._text_to_audio, story_seed(self._seed, one.id))


class TrueCaptions:
    """An oracle: the captions and the seconds of the true storyline, clip by clip."""

    def __init__(self, text_to_audio: TextToAudio, *, seed: int = 0) -> None:
        self._text_to_audio, self._seed = text_to_audio, seed

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"kind": "true captions", "seed": self._seed, **self._text_to_audio.settings}

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio]:
        for one in asked:
            yield _told(one.storyline, self._text_to_audio, story_seed(self._seed, one.id))


class Cascade:
    """A planner's captions and seconds, clip by clip. The planner is that of an AudioStory model in `planner`, of which
    nothing but the words is used. ValueError for a folder that is no model."""

    def __init__(self, planner: Path, text_to_audio: TextToAudio, *, device: str | None = None, seed: int = 0) -> None:
        self.planner, self._text_to_audio, self._seed = Ours(planner, device=device), text_to_audio, seed

    @property
    def settings(self) -> Mapping[str, Any]:
        named = {"kind": "cascade", "planner_sha256": self.planner.sha256, "seed": self._seed}
        return {**named, **self._text_to_audio.settings}

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio | StoryError]:
        if not asked:  # for none, no network is loaded
            return
        plans = self.planner.pipeline.plan_many([one.instruction for one in asked], progress=False)
        for one, plan in zip(asked, plans, strict=True):
            if isinstance(plan, StoryError):
                yield checked(one.id, plan)
            else:
                yield _told(plan.storyline, self._text_to_audio, story_seed(self._seed, one.id), plan.problems)


def _told(storyline: Storyline, text_to_audio: TextToAudio, seed: int, problems: Sequence[Problem] = ()) -> StoryAudio:
    longest = text_to_audio.longest_seconds
    shortened = [
        _shortened(number, event.seconds, longest)
        for number, event in enumerate(storyline.events, start=1)
        if event.seconds > longest + 1e-6
    ]
    clips = timeline.cut(
        [min(event.seconds, longest) for event in storyline.events], max_clip_seconds=math.inf, crossfade_seconds=0.0
    )
    waveforms = text_to_audio.sounds(
        [event.caption for event in storyline.events],
        [clip.seconds for clip in clips],
        [_clip_seed(seed, index) for index in range(len(clips))],
    )
    waveforms = [
        timeline.fit(waveform, clip.num_samples(waveform.sample_rate))
        for waveform, clip in zip(waveforms, clips, strict=True)
    ]
    rendering = Rendering(seed=seed, steps=text_to_audio.steps, guidance=text_to_audio.guidance, crossfade_seconds=0.0)
    return assemble(storyline, rendering, clips, waveforms, [*problems, *shortened])


def _clip_seed(seed: int, index: int) -> int:
    """An event's own, drawn as our pipeline draws it (`flow.clip_noise`), so that both begin with the same noise."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])


def _shortened(event: int, seconds: float, longest: float) -> Problem:
    message = f"event {event} should last {seconds:g} s, the longest clip has {longest:g} s; the story is shorter"
    return Problem(kind=ProblemKind.TOO_LONG, event=event, message=message)
