from pathlib import Path

import planning
import pytest
from systems.cases import write_model, write_text_to_audio

from audiostory.pipeline import StoryError
from audiostory.story import Event, Instruction, Storyline


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def text_to_audio(tmp_path_factory) -> Path:
    return write_text_to_audio(tmp_path_factory.mktemp("models") / "text_to_audio")


@pytest.fixture
def plans(monkeypatch) -> list[str]:
    """Gives the planner's plans, read off the instruction: "a dog then rain" has two events. Keeps what was asked."""
    seen: list[str] = []

    def plan(self, instruction: Instruction, **_):
        seen.append(instruction.text)
        if instruction.text == "nothing":
            raise StoryError("the planner wrote no complete event")
        captions = instruction.text.split(" then ")
        seconds = (instruction.total_seconds or 2.0) / len(captions)
        events = tuple(Event(caption=words, seconds=seconds, start=k * seconds) for k, words in enumerate(captions))
        return self.plan_from_storyline(Storyline(summary="sounds", events=events), instruction)

    planning.give(monkeypatch, plan)
    return seen
