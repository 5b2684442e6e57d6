"""What systems and controls make for a task of the sound world, on disk: made once, whatever stops the run.

Every process makes its share: each N-th story, each N-th recording with its questions. What is written line by line
goes into a file per process, and all of them are read, so another number of processes goes on with what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from audiostory.benchmark.items import FAILURE, RECORD, ToldStory, TrueStory, as_told, read_told
from audiostory.benchmark.listening import read_any_answers, read_plans
from audiostory.benchmark.tasks import QuestionTask, StoryTask
from audiostory.disk import sha256
from audiostory.lines import append_line, drop_unfinished
from audiostory.pipeline import StoryError
from audiostory.processes import Place
from audiostory.systems.asked import Asked, System
from audiostory.systems.codec import through_codec
from audiostory.systems.models import fingerprint
from audiostory.systems.ours import Ours
from audiostory.systems.telling import check_settings, keep_settings, tell_all

TOLD, CODEC = "told", "codec"  # folders of a task
PLANS, ANSWERS, SILENT_ANSWERS = "silence", "answers", "answers_silence"  # files of a system, NAME.RANK.jsonl

Line = TypeVar("Line")


def mend(folder: Path) -> None:
    """Drops what a killed process left of its last line; before any process writes."""
    for file in folder.glob(f"**/{TOLD}/*/*.jsonl"):
        drop_unfinished(file)


def tell(task: StoryTask, name: str, system: System, place: Place) -> None:
    """The stories, or what follows the openings, into a folder of the system's own."""
    bar, folder = f"{task.name} by {name}{place}", task.folder / TOLD / name
    asked = [_asked(truth) for truth in task.truths]
    tell_all(system, asked, folder, rank=place.rank, processes=place.processes, progress=bar)


def told(task: StoryTask, folder: Path) -> list[ToldStory]:
    """What lies in a system's folder. ValueError names a story that is not there."""
    return [read_told(folder / truth.id) for truth in task.truths]


def seconds_to_tell(task: StoryTask, folder: Path) -> dict[str, float]:
    """Total and mean over the stories, those that could not be told too, whenever that was."""
    files = [folder / truth.id / name for truth in task.truths for name in (RECORD, FAILURE)]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    seconds = [record["seconds_to_tell"] for record in records if "seconds_to_tell" in record]
    return {"total": round(sum(seconds), 1), "mean": round(sum(seconds) / max(1, len(seconds)), 2)}


def code(task: StoryTask, codec: Path, device: str | None, place: Place) -> None:
    """The true clips through the codec of a model's folder, each once: they are kept by what is in them."""
    mine = task.truths[place.rank :: place.processes]
    settings = {"codec_sha256": fingerprint(codec)}
    keep_settings(task.folder / CODEC, settings)
    clips = [event.audio for truth in mine for event in truth.events if event.audio]
    pairs = {_coded(task, clip): clip for clip in clips}
    through_codec(
        codec,
        [(clip, target) for target, clip in pairs.items()],
        device=device,
        progress=f"encoding and decoding{place}",
    )


def coded(task: StoryTask) -> list[ToldStory]:
    """The stories of the truth in these clips."""
    return [
        as_told(truth, [_coded(task, event.audio) for event in truth.events if event.audio]) for truth in task.truths
    ]


def plan_after_silence(task: StoryTask, name: str, system: Ours, place: Place) -> None:
    """What the model plans without hearing the openings; nothing is rendered."""

    def plan(truth: TrueStory) -> list[dict[str, Any]]:
        row: dict[str, Any] = {"id": truth.id, "instruction": truth.instruction.text}
        try:
            captions, seconds = system.plan_after_silence(_asked(truth))
        except StoryError as error:
            return [row | {"captions": [], "seconds": 0.0, "reason": str(error)}]
        return [row | {"captions": captions, "seconds": round(seconds, 4)}]

    folder = task.folder / TOLD / name
    held = _lines(folder, PLANS, read_plans)
    left = [truth for truth in task.truths[place.rank :: place.processes] if truth.id not in held]
    _append(folder, PLANS, system.settings, left, plan, place, f"{name} after silence", "story")


def planned_after_silence(task: StoryTask, name: str) -> list[ToldStory]:
    plans = _lines(task.folder / TOLD / name, PLANS, read_plans)
    return [plans[truth.id] for truth in task.truths]


def answer(task: QuestionTask, name: str, system: Ours, place: Place, *, silent: bool) -> None:
    """The model's answers about the recordings, or about silence; the questions about one are asked together."""
    folder, file = task.folder / TOLD / name, SILENT_ANSWERS if silent else ANSWERS
    settings = {"model_sha256": system.sha256, "manifest_sha256": sha256(task.manifest)}
    check_settings(folder, settings)
    held = _lines(folder, file, read_any_answers)
    recordings = [list(group) for _, group in groupby(task.questions, key=lambda question: question.story)]
    left = [asked for asked in recordings[place.rank :: place.processes] if any(one.id not in held for one in asked)]

    def ask(asked: Sequence[Any]) -> list[dict[str, Any]]:
        missing = [one for one in asked if one.id not in held]
        answers = system.answer(missing[0].recording, [one.text for one in missing], silent=silent)
        return [
            {"id": one.id, "question": one.text, "answer": answer, "truth": one.answer}
            for one, answer in zip(missing, answers, strict=True)
        ]

    bar = f"{name} answers{' about silence' if silent else ''}"
    _append(folder, file, settings, left, ask, place, bar, "recording")


def answered(task: QuestionTask, name: str, *, silent: bool) -> list[str]:
    answers = _lines(task.folder / TOLD / name, SILENT_ANSWERS if silent else ANSWERS, read_any_answers)
    return [answers[question.id] for question in task.questions]


def _asked(truth: TrueStory) -> Asked:
    return Asked(id=truth.id, instruction=truth.instruction, caption=truth.storyline.summary, storyline=truth.storyline)


def _coded(task: StoryTask, clip: Path) -> Path:
    return task.folder / CODEC / f"{sha256(clip)[:32]}.wav"


def _lines(folder: Path, name: str, read: Callable[[Path], Mapping[str, Line]]) -> dict[str, Line]:
    """What all processes have written so far."""
    held: dict[str, Line] = {}
    for file in sorted(folder.glob(f"{name}.*.jsonl")):
        held |= read(file)
    return held


def _append(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    left: Sequence[Any],
    make: Callable[[Any], list[dict[str, Any]]],
    place: Place,
    what: str,
    unit: str,
) -> None:
    for one in tqdm(left, desc=f"{what}{place}", unit=unit, disable=not left):
        rows = make(one)
        keep_settings(folder, settings)
        for row in rows:
            append_line(folder / f"{name}.{place.rank}.jsonl", row)
