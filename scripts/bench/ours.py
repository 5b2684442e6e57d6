"""The product, watched: the phases of telling a story are calls that the pipeline makes by name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch  # puts the stopwatch in the way, and takes it out again

import torch
from bench.measure import Peak, Watch
from bench.subjects import Story
from torch import Tensor, nn

from audiostory import pipeline as telling
from audiostory.model.planner import Piece, Planner, reciting
from audiostory.pipeline import AudioStoryPipeline, Plan
from audiostory.story import Vocabulary
from audiostory.story_audio import Rendering, StoryAudio
from audiostory.weights import ours

OTHER = "other"  # what lies between them: noise, cutting, moving


@dataclass(frozen=True, kw_only=True)
class Telling:
    """A told story with what it cost. `seconds` are by phase, with OTHER, and add up to `whole`."""

    ids: tuple[int, ...]
    plan: Plan
    latents: Sequence[Tensor]
    audio: StoryAudio
    seconds: Mapping[str, float]
    whole: float
    peaks: Mapping[str, Peak]

    @classmethod
    def of(cls, watch: Watch, whole: float, **made: Any) -> Telling:
        other = whole - sum(watch.seconds.values())
        return cls(seconds={**watch.seconds, OTHER: other}, whole=whole, peaks=watch.peaks, **made)


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Of a streamed story: seconds to the first of its sound, and to the end; the clock's time at the first."""

    first: float
    whole: float
    first_at: float
    audio_seconds: float
    peak: Peak


class Ours:
    """`tell` and `stream` as a user would call them."""

    def __init__(
        self,
        pipeline: AudioStoryPipeline,
        device: torch.device,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
    ):
        """What is None is the model's own. ValueError for choices that cannot be meant."""
        self.pipeline, self.device = pipeline, device
        settings = pipeline.settings
        chosen = Rendering(
            seed=0,
            steps=settings.steps if steps is None else steps,
            guidance=settings.guidance if guidance is None else guidance,
            solver=settings.solver if solver is None else solver,
            crossfade_seconds=0.0,
        )
        self.steps, self.guidance, self.solver = chosen.steps, chosen.guidance, chosen.solver

    @property
    def choices(self) -> dict[str, Any]:
        return {"steps": self.steps, "guidance": self.guidance, "solver": self.solver}

    def tell(self, story: Story, seed: int) -> Telling:
        pipeline = self.pipeline
        watch = Watch(self.device)
        ids: list[int] = []
        latents: list[Tensor] = []
        with watched(pipeline, watch), recites(pipeline, story, ids):
            began = time.perf_counter()
            with watch.phase("plan"):
                plan = pipeline.plan(story.instruction, **room(story), progress=False)
            audio = pipeline.render(plan, seed=seed, **self.choices, on_latents=latents.extend, progress=False)
            whole = time.perf_counter() - began
        return Telling.of(watch, whole, ids=tuple(ids), plan=plan, latents=latents, audio=audio)

    def render(self, plan: Plan, seed: int) -> tuple[list[Tensor], StoryAudio]:
        """A plan in latents and in sound."""
        latents: list[Tensor] = []
        audio = self.pipeline.render(plan, seed=seed, **self.choices, on_latents=latents.extend, progress=False)
        return latents, audio

    def stream(self, story: Story, seed: int) -> Streamed:
        """Nothing is kept of what is heard."""
        watch, first, first_at, num_samples = Watch(self.device), 0.0, 0.0, 0
        with recites(self.pipeline, story, []), watch.phase("stream"):
            began = time.perf_counter()
            for part in self.pipeline.stream(story.instruction, seed=seed, **self.choices, **room(story)):
                if not num_samples:
                    first, first_at = time.perf_counter() - began, time.time()
                num_samples += part.sound.num_samples
        seconds = num_samples / self.pipeline.codec.sample_rate
        whole, peak = watch.seconds["stream"], watch.peaks["stream"]
        return Streamed(first=first, whole=whole, first_at=first_at, audio_seconds=seconds, peak=peak)

    def parameters(self) -> dict[str, int]:
        """How many each part has."""
        parts: dict[str, nn.Module] = {name: getattr(self.pipeline, name) for name in ours.TELLING}
        return {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}


@contextmanager
def watched(pipeline: AudioStoryPipeline, watch: Watch) -> Iterator[None]:
    """Within, the calls that rendering consists of are phases of the watch."""
    with ExitStack() as stack:
        for phase, owner, name in (
            ("bridge", pipeline.bridge, "forward"),
            ("denoise", telling, "denoise"),
            ("decode", pipeline.codec, "decode"),
            ("stitch", telling, "assemble"),
        ):
            stack.enter_context(patch.object(owner, name, watch.during(phase, getattr(owner, name))))
        yield


@contextmanager
def recites(pipeline: AudioStoryPipeline, story: Story, ids: list[int]) -> Iterator[None]:
    """Within, the planner writes the story's answer if it has one; what it writes is added to `ids`."""
    planner = pipeline.planner
    choose = None if story.answer is None else partial(_recite, reciting(story.answer, pipeline.vocabulary))

    def writing(prompts: Any, vocabulary: Vocabulary, **choices: Any) -> Iterator[Piece]:
        for piece in Planner.writing(planner, prompts, vocabulary, **choices, choose=choose):
            ids.extend(piece.ids)
            yield piece

    with patch.object(planner, "writing", writing):
        yield


def _recite(answer: Any, number: int, scores: Tensor) -> int:
    scores.argmax()  # as if it counted
    return answer(scores)


def room(story: Story) -> dict[str, Any]:
    """For the planner's answer."""
    return {"max_new_tokens": 1600 if story.answer is None else len(story.answer)}
