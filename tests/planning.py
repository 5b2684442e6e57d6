"""Plans that a test gives in the planner's place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audiostory.pipeline import AudioStoryPipeline, Plan, StoryError


def give(monkeypatch: pytest.MonkeyPatch, plan: Callable[..., Plan]) -> None:
    """`plan(pipeline, instruction, **options)` plans from now on, one story or many."""

    def plan_some(self: AudioStoryPipeline, instructions, *_) -> list[Plan | StoryError]:
        found: list[Plan | StoryError] = []
        for instruction in instructions:
            try:
                found.append(plan(self, instruction))
            except StoryError as error:
                found.append(error)
        return found

    monkeypatch.setattr(AudioStoryPipeline, "plan", plan)
    monkeypatch.setattr(AudioStoryPipeline, "_plan_some", plan_some)
