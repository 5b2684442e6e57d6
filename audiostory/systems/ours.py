"""Our own model as a system, with its planner or as an oracle that is given the true storyline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from audiostory import sound
from audiostory.pipeline import MINI, AudioStoryPipeline, StoryError
from audiostory.sound import Waveform
from audiostory.story_audio import Rendering, StoryAudio
from audiostory.systems.asked import Asked, story_seed
from audiostory.systems.models import checked_device, fingerprint
from audiostory.weights import ours


class Ours:
    """The model in `folder`, which is loaded only when something is left to make.

    What is None is the model's own setting, or the best device. With `true_storyline` the planner is given what it
    should have written. `lacking` names what the model would need to hear recordings. ValueError for a folder that is
    no model and for values that cannot be meant.
    """

    def __init__(
        self,
        folder: Path = MINI,
        *,
        device: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        true_storyline: bool = False,
    ) -> None:
        own, names = ours.read_index(folder), ours.read_names(folder)
        self.folder, self.seed, self.true_storyline = folder, seed, true_storyline
        self.steps = own.steps if steps is None else steps
        self.guidance = own.guidance if guidance is None else guidance
        self.solver = own.solver if solver is None else solver
        Rendering(seed=0, crossfade_seconds=0.0, **self._choices)  # says now what is wrong
        self.lacking = tuple(name for name in ours.LISTENING if name not in names)
        self.sha256 = fingerprint(folder)
        self._device = device

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "kind": "ours, given the true storyline" if self.true_storyline else "ours",
            "model_sha256": self.sha256,
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            # Folders that were told before there were others name none, and are still good.
            **({} if self.solver == "euler" else {"solver": self.solver}),
        }

    @property
    def _choices(self) -> dict[str, Any]:
        return {"steps": self.steps, "guidance": self.guidance, "solver": self.solver}

    @cached_property
    def pipeline(self) -> AudioStoryPipeline:
        from transformers.utils import logging

        device = checked_device(self._device)
        logging.disable_progress_bar()  # loading takes a second; the bars that follow are ours
        return AudioStoryPipeline.from_pretrained(self.folder).to(device)

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio | StoryError]:
        """Stories, or what follows the recordings that the instructions hold. They are planned and denoised some at a
        time, so the first of a group waits for all of it."""
        seeds = [story_seed(self.seed, one.id) for one in asked]
        if self.true_storyline:
            for one, seed in zip(asked, seeds, strict=True):
                yield self._render_truth(one, seed)
        elif asked:  # for none, no network is loaded
            instructions = [one.instruction for one in asked]
            stories = self.pipeline.tell_many(instructions, seeds=seeds, **self._choices, progress=False)
            for one, told in zip(asked, stories, strict=True):
                yield checked(one.id, told) if isinstance(told, StoryError) else told

    def plan_after_silence(self, asked: Asked) -> tuple[list[str], float]:
        """The captions and the seconds of what it plans to follow an opening that it cannot hear. StoryError when it
        plans nothing."""
        assert asked.instruction.audio is not None
        silence = _silence(asked.instruction.audio)
        storyline = self.pipeline.plan(asked.instruction, audio=silence, progress=False).storyline
        return [event.caption for event in storyline.events], storyline.total_seconds

    def answer(self, recording: Path, questions: Sequence[str], *, silent: bool = False) -> list[str]:
        """Its answers to questions about a recording, or with `silent` about silence that is as long."""
        return self.pipeline.describe(_silence(recording) if silent else recording, list(questions), progress=False)

    def _render_truth(self, asked: Asked, seed: int) -> StoryAudio:
        plan = self.pipeline.plan_from_storyline(asked.storyline, asked.instruction)
        return self.pipeline.render(plan, **self._choices, seed=seed, progress=False)


def checked(id: str, failure: StoryError) -> StoryError:
    """What the planner is to blame for. ValueError for what a person has to mend: as a failure it would be kept, and
    never tried again."""
    if failure.__cause__:
        raise ValueError(f"{id}: {failure}") from failure.__cause__
    return failure


def _silence(recording: Path) -> Waveform:
    """As long as the recording."""
    waveform = sound.read(recording)
    return replace(waveform, samples=np.zeros_like(waveform.samples))
