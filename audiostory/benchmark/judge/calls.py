"""Every question to the judge, planned before the first is asked: its words, its recording, and a key of all that the
answer depends on. The order of criteria and items differs from call to call, after the seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiostory.benchmark.judge import answers, prompts
from audiostory.benchmark.judge.prompts import AXES, RUBRIC
from audiostory.benchmark.judge.recording import digest
from audiostory.benchmark.judge.stories import Story

DRAWN = "rubric items"  # the name of the questions that draw a rubric from an instruction


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose answers these are. `server` is the address of one that is not the service's own: what a model's name stands
    for there is up to whoever runs it."""

    backend: str
    model: str
    temperature: float
    server: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often each question is asked, and how: `items_per_call` rubric items share a question."""

    num_calls: int = 3
    items_per_call: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Call:
    """One question. `expected` are the criteria or items, in the order of the prompt; none when items are drawn."""

    key: str
    story: str
    axis: str
    number: int
    prompt: str
    audio: Path | None
    seconds: float  # of audio
    expected: tuple[str, ...] = ()

    def read(self, text: str) -> dict[str, Any]:
        """The journal's row for this answer. AnswerError when it is not in the form that was asked for."""
        row: dict[str, Any] = {"key": self.key, "story": self.story, "axis": self.axis, "call": self.number}
        if self.axis == DRAWN:
            return {**row, "items": answers.read_items(text)}
        if self.axis == RUBRIC:
            return {**row, "answers": answers.read_yes_no(text, self.expected)}
        return {**row, **answers.read_axis(text, self.expected)}


def axis_calls(stories: Sequence[Story], axes: Sequence[str], identity: Identity, plan: Plan) -> list[Call]:
    """`plan.num_calls` for each story and axis; an axis that reads the plan passes over stories that have none."""
    calls = []
    for story in stories:
        sound = digest(story.audio)
        for name in axes:
            axis = AXES[name]
            if not axis.hears and story.plan is None:
                continue
            for number in range(plan.num_calls):
                criteria = _in_random_order(list(axis.criteria), plan.seed, story.id, name, number)
                # A length in seconds is for who reads a timeline; whether the recording has it is measured, not heard.
                instruction, text = (story.instruction, None) if axis.hears else (story.asked, story.plan)
                prompt = prompts.axis_prompt(axis, criteria, instruction, text)
                heard = (story, sound) if axis.hears else None
                calls.append(_call(identity, story.id, name, number, prompt, heard, criteria))
    return calls


def draw_calls(instructions: Sequence[str], identity: Identity) -> list[Call]:
    """One for each different instruction, to draw its rubric; the key knows of no story, so all systems share it."""
    return [
        _call(identity, f"instruction {text[:60]!r}", DRAWN, 0, prompts.draw_prompt(text), None, key_name="")
        for text in dict.fromkeys(instructions)
    ]


def rubric_calls(
    stories: Sequence[Story], items: Mapping[str, Sequence[str]], identity: Identity, plan: Plan
) -> list[Call]:
    """`items` by the story's id; stories without any are passed over."""
    calls = []
    for story in stories:
        sound = digest(story.audio)
        for number in range(plan.num_calls):
            mixed = _in_random_order(list(items.get(story.id, ())), plan.seed, story.id, RUBRIC, number)
            for begin in range(0, len(mixed), plan.items_per_call):
                group = mixed[begin : begin + plan.items_per_call]
                prompt = prompts.items_prompt(group)
                calls.append(_call(identity, story.id, RUBRIC, number, prompt, (story, sound), group))
    return calls


def _call(
    identity: Identity,
    story: str,
    axis: str,
    number: int,
    prompt: str,
    heard: tuple[Story, str] | None,
    expected: Sequence[str] = (),
    key_name: str | None = None,
) -> Call:
    """`heard` is whose recording is put beside the question, and its digest."""
    named = story if key_name is None else key_name
    depends_on = [
        *(identity.backend, identity.model, identity.temperature, prompts.version()),
        *(named, axis, number, prompt, heard and heard[1]),
        *((identity.server,) if identity.server else ()),  # answers of the service's own keep their keys
    ]
    return Call(
        key=hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32],
        story=story,
        axis=axis,
        number=number,
        prompt=prompt,
        audio=heard[0].audio if heard else None,
        seconds=heard[0].seconds if heard else 0.0,
        expected=tuple(expected),
    )


def _in_random_order(names: list[str], *seeds: int | str) -> list[str]:
    random.Random(json.dumps(seeds)).shuffle(names)
    return names
