"""The suite of the sound world, whose truth is known: stories told, openings gone on from, questions answered.

    OUTPUT/told/SYSTEM/ID/                          stories; OUTPUT/report.md, report.json, index.html
    OUTPUT/continuations/told/SYSTEM/ID/            what follows the openings, and a report and page of its own
    OUTPUT/questions/told/SYSTEM/answers.0.jsonl    answers, and a report

Every process makes its share of what is missing; the first one listens and scores. The manifests are written if they
are not there: the same command makes the same exam anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from audiostory.benchmark import page, paper, report, tasks
from audiostory.benchmark.distribution import FD, KL, likeness_notes, score_likeness, shuffled_likeness
from audiostory.benchmark.ear import BUNDLED, Ear
from audiostory.benchmark.entries import entries, heard_stories, sound_world_items
from audiostory.benchmark.intervals import Score
from audiostory.benchmark.items import Heard, ToldStory, TrueStory, as_told
from audiostory.benchmark.listening import (
    read_answers,
    score_answers,
    score_continuations,
    shuffled_answers,
    shuffled_continuations,
)
from audiostory.benchmark.recorded import read_recorded, read_references
from audiostory.benchmark.report import Report
from audiostory.benchmark.soundworld import hardest, score_cast, score_plans, score_sounds, shuffled_scores
from audiostory.benchmark.tasks import CONTROLS, QuestionTask, StoryTask
from audiostory.comparison import making, tellers
from audiostory.comparison.config import Benchmark, SoundWorld
from audiostory.comparison.facts import versions
from audiostory.comparison.tellers import Column
from audiostory.disk import sha256
from audiostory.pipeline import MINI
from audiostory.processes import Place
from audiostory.soundworld.corpus import write_corpus

EXAMS: dict[str, dict[str, Any]] = {
    "stories": {"kind": "story", "whole": True},
    "continuations": {"kind": "continuation"},
    "questions": {"kind": "question", "seed": 200_000},  # seeds that no story has
}
SILENCE = ", silence"  # behind a system's name: the same system, which hears nothing
BESIDE_TABLE_1 = ("order of sounds right", "sound right", "place stays the same", "length within 0.1 s", FD, KL)

Task = StoryTask | QuestionTask


def run(benchmark: Benchmark, suite: SoundWorld, place: Place) -> Iterator[tuple[Path, Report]]:
    """Each report with the folder that it was written to; of the first process, the others have none.

    ValueError for what a person must mend: before any work where that can be known.
    """
    ear_folder = Path(suite.ear) if suite.ear else BUNDLED
    ear, ear_facts = Ear.load(ear_folder)
    columns = tellers.columns(benchmark, place)
    if place.is_first:
        making.mend(Path(benchmark.output))
        _write_exams(suite)
    place.wait_for_all()
    chosen = list(_tasks(suite, Path(benchmark.output)))
    for task in chosen:
        if task.name != "stories":
            ask_all = task.name == "continuations"  # questions are put to those alone that answer any
            asked = {name: column for name, column in columns.items() if ask_all or column.hears}
            tellers.check_hearing(asked, str(task.manifest), f"leave {task.name} out of suite.tasks")
    for task in chosen:
        _make(task, columns, suite, benchmark, place)
    place.wait_for_all()
    if not place.is_first:
        return
    for task in chosen:
        facts: dict[str, Any] = {
            "versions": versions(),
            "manifest": {"file": str(task.manifest), "sha256": sha256(task.manifest), **task.counts},
            "systems": {name: column.facts for name, column in columns.items()},
        }
        if task.train:
            facts["training"] = {"file": str(task.train), "sha256": sha256(task.train)}
        if isinstance(task, QuestionTask):
            found = _questions_report(task, columns)
            found = replace(found, facts={**facts, **found.facts})
        else:
            facts["ear"] = {"sha256": sha256(ear_folder / "ear.safetensors"), **ear_facts}
            found, shown = _stories_report(task, columns, ear, suite.pages)
            found = replace(found, facts={**facts, **found.facts})
            if shown:
                page.write(task.folder, page.Page(report=found, stories=shown))
        report.write(task.folder, found)
        yield task.folder, found


def _write_exams(suite: SoundWorld) -> None:
    for name in suite.tasks:
        if name not in EXAMS:
            raise ValueError(f"suite.tasks has {name!r}; there are {', '.join(EXAMS)}")
        manifest = Path(getattr(suite, name))
        if manifest.is_file():
            continue
        if manifest.name != "manifest.jsonl":
            raise ValueError(f"there is no {manifest}; one that is to be written ends in /manifest.jsonl")
        with tqdm(total=suite.num, unit="row", desc=f"writing {manifest.parent}") as bar:
            write_corpus(manifest.parent, split="test", num=suite.num, **EXAMS[name], on_rows=bar.update)


def _tasks(suite: SoundWorld, output: Path) -> Iterator[Task]:
    for name in suite.tasks:
        manifest = Path(getattr(suite, name))
        folder = output if name == "stories" else output / name
        if name == "stories":
            yield tasks.stories(manifest, folder, suite.controls, suite.num)
            continue
        train = getattr(suite, f"{name}_train")
        read = tasks.continuations if name == "continuations" else tasks.questions
        yield read(manifest, folder, suite.controls, suite.num, Path(train) if train else None)


def _make(task: Task, columns: Mapping[str, Column], suite: SoundWorld, benchmark: Benchmark, place: Place) -> None:
    """This process's share of what is missing."""
    silent = "silence" in task.controls
    for name, column in columns.items():
        if isinstance(task, StoryTask):
            if column.system:
                making.tell(task, name, column.system, place)
            if silent and column.hears:
                making.plan_after_silence(task, name, column.hears, place)
        elif column.hears:
            making.answer(task, name, column.hears, place, silent=False)
            if silent:
                making.answer(task, name, column.hears, place, silent=True)
    if isinstance(task, StoryTask) and "codec" in task.controls:
        codec = Path(suite.codec) if suite.codec else MINI
        making.code(task, codec, place.device(benchmark.device), place)


def _stories_report(
    task: StoryTask, columns: Mapping[str, Column], ear: Ear, num_shown: int
) -> tuple[Report, list[page.Entry]]:
    truths = task.truths
    folders = {name: column.told_in(task.folder / making.TOLD) for name, column in columns.items()}
    stories = {name: making.told(task, folder) for name, folder in folders.items()}
    stories["truth"] = [as_told(truth, [event.audio for event in truth.events if event.audio]) for truth in truths]
    if "codec" in task.controls:
        stories["codec"] = making.coded(task)
    answers = {name: _listen(ear, name, told) for name, told in stories.items()}
    if task.name == "continuations":
        scores = _continuation_scores(task, stories, answers)
        hear = [name for name, column in columns.items() if column.hears and "silence" in task.controls]
        silent = {name + SILENCE: making.planned_after_silence(task, name) for name in hear}
        scores |= {name: score_continuations(truths, planned) for name, planned in silent.items()}
    else:
        scores, silent = _story_scores(task, stories, answers), {}
    controls = {control: CONTROLS[task.name][control] for control in task.controls if control != "silence"}
    about = {name: column.about for name, column in columns.items()}
    about |= dict.fromkeys(silent, CONTROLS["continuations"]["silence"]) | controls
    made = [name for name in stories if name != "truth"]
    found = Report(
        title=f"{len(truths)} {task.name} of the sound world",
        columns={name: scores[name] for name in about},
        about=about,
        how_to_read=report.HOW_TO_READ_CONTINUATIONS if task.name == "continuations" else report.HOW_TO_READ_STORIES,
        notes=_notes(task, {**{name: stories[name] for name in columns}, **silent}, answers),
        hardest={name: hardest(stories[name], answers[name]) for name in made},
        beside_paper=_beside_table_1(scores, columns) if task.name == "stories" else (),
        facts={"seconds_to_tell": {name: making.seconds_to_tell(task, folders[name]) for name in columns}},
    )
    return found, _shown(task, folders, stories, answers, num_shown) if num_shown else []


def _story_scores(
    task: StoryTask, stories: Mapping[str, Sequence[ToldStory]], answers: Mapping[str, Sequence[Sequence[Heard]]]
) -> dict[str, dict[str, Score]]:
    truths = task.truths
    scores = _each(task, score_plans, stories, answers)
    if "shuffled" in task.controls:
        scores["shuffled"] = shuffled_scores(truths, stories["truth"], answers["truth"])
        scores["shuffled"] |= shuffled_likeness(answers["truth"])
    return scores


def _continuation_scores(
    task: StoryTask, stories: Mapping[str, Sequence[ToldStory]], answers: Mapping[str, Sequence[Sequence[Heard]]]
) -> dict[str, dict[str, Score]]:
    """Guess and chance are plans alone, and nothing is heard of them."""
    truths = task.truths
    scores = _each(task, score_continuations, stories, answers)
    if "guess" in task.controls:
        scores["guess"] = score_continuations(truths, task.guess)
    if "shuffled" in task.controls:
        scores["shuffled"] = score_continuations(truths, shuffled_continuations(truths))
    return scores


def _each(
    task: StoryTask,
    score: Callable[[Sequence[TrueStory], Sequence[ToldStory]], dict[str, Score]],
    stories: Mapping[str, Sequence[ToldStory]],
    answers: Mapping[str, Sequence[Sequence[Heard]]],
) -> dict[str, dict[str, Score]]:
    """What was planned, by `score`, and what is heard, of everybody with clips."""
    return {
        name: {
            **score(task.truths, told),
            **score_sounds(task.truths, answers[name]),
            **score_cast(task.truths, answers[name]),
            **score_likeness(answers[name], answers["truth"]),
        }
        for name, told in stories.items()
    }


def _questions_report(task: QuestionTask, columns: Mapping[str, Column]) -> Report:
    answers: dict[str, Sequence[str]] = {}
    about: dict[str, str] = {}
    words = CONTROLS["questions"]
    for name, column in columns.items():
        if column.folder:
            answers[name] = read_answers(column.folder / "answers.jsonl", task.questions)
        elif column.hears:
            answers[name] = making.answered(task, name, silent=False)
        else:
            continue
        about[name] = column.about
        if column.hears and "silence" in task.controls:
            answers[name + SILENCE] = making.answered(task, name, silent=True)
            about[name + SILENCE] = words["silence"]
    controls = {"guess": task.guess, "shuffled": shuffled_answers(task.questions)}
    for control in task.controls:
        if control in controls:
            answers[control], about[control] = controls[control], words[control]
    left_out = [name for name in columns if name not in answers]
    return Report(
        title=f"{len(task.questions)} questions about {task.counts['recordings']} recordings of the sound world",
        columns={name: score_answers(task.questions, answers[name]) for name in about},
        about=about,
        how_to_read=report.HOW_TO_READ_ANSWERS,
        notes=[f"{', '.join(left_out)}: answers no questions, and is left out"] if left_out else (),
    )


def _listen(ear: Ear, name: str, stories: Sequence[ToldStory]) -> list[list[Heard]]:
    heard = iter(ear.hear([clip for story in stories for clip in story.clips], progress=f"listening ({name})"))
    return [list(islice(heard, len(story.clips))) for story in stories]


def _beside_table_1(
    scores: Mapping[str, Mapping[str, Score]], columns: Mapping[str, Column]
) -> list[report.Comparison]:
    """The paper's comparison of who tells, where at least two of its rows were run here."""
    if len(columns) < 2:
        return []
    measured = {name: {measure: scores[name][measure] for measure in BESIDE_TABLE_1} for name in columns}
    return [report.Comparison(table=paper.TABLES[1], measured=measured)]


def _notes(
    task: StoryTask, told: Mapping[str, Sequence[ToldStory]], answers: Mapping[str, Sequence[Sequence[Heard]]]
) -> list[str]:
    notes, truths = [], task.truths
    if open_ended := sum(truth.instruction.total_seconds is None for truth in truths):
        notes.append(f"{open_ended} of {len(truths)} instructions ask for no length: left out of the length measures")
    for name, stories in told.items():
        if failed := [story.id for story in stories if not story.captions]:
            listed = ", ".join(failed[:5]) + (" ..." if len(failed) > 5 else "")
            notes.append(f"{name}: {len(failed)} of {len(truths)} stories could not be told ({listed}); all wrong")
        if name in answers:
            notes += [f"{name}: {note}" for note in likeness_notes(answers[name], answers["truth"])]
    return notes


def _shown(
    task: StoryTask,
    folders: Mapping[str, Path],
    stories: Mapping[str, Sequence[ToldStory]],
    answers: Mapping[str, Sequence[Sequence[Heard]]],
    num: int,
) -> list[page.Entry]:
    """The first stories for the page: those of every system, and of the truth if it is a column."""
    truths: Sequence[TrueStory] = task.truths[:num]
    items = sound_world_items(truths, task.folder / "truth")
    recorded = {name: read_recorded(folder, items) for name, folder in folders.items()}
    if "truth" in task.controls:
        recorded["truth"] = read_references(items)
    heard = {
        name: heard_stories(truths, stories[name][:num], answers[name][:num], answers["truth"][:num])
        for name in recorded
    }
    return entries(items, recorded, heard)
