"""What one report is about: stories to tell, openings to go on from or questions to answer, and the columns compared.

A task is read and checked whole, so that what is wrong with it is said before any work. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from audiostory.benchmark.items import ToldStory, TrueStory, read_truth
from audiostory.benchmark.listening import Question, guessed_continuations, most_frequent_answers, read_questions

STORIES = {
    "told": "the model, from the instruction alone",
    "oracle": "the model given the true storyline: what is lost here is not the planner's fault",
    "truth": "the corpus's own clips: the most that the ear can hear",
    "codec": "the corpus's clips through the model's codec: the most that the model can sound like",
    "shuffled": "chance: each story answered with another one's truth; for the cast, each event with the clip of the "
    "same sound from another story",
}
CONTINUATIONS = {
    "told": "the model, from the opening and the instruction",
    "oracle": STORIES["oracle"],
    "truth": STORIES["truth"],
    "codec": STORIES["codec"],
    "silence": "the same model, planning by the same instruction after silence as long as the opening",
    "guess": "without listening: what is named is right, and for each sound that is referred to stands the one most "
    "often heard in the openings of training; the number of events is given away",
    "shuffled": "chance: what is named is right, and what is referred to comes from another opening of as many sounds",
}
QUESTIONS = {
    "told": "the model's answers",
    "silence": "the same model's answers about silence as long as the recording",
    "guess": "without listening: what questions of the same kind are answered with most often in training",
    "shuffled": "chance: the right answer to a question of the same kind about another recording",
}
SYSTEMS = {"stories": STORIES, "continuations": CONTINUATIONS, "questions": QUESTIONS}  # the columns of each report
TOLD = ("told", "oracle")
MADE = (*TOLD, "codec", "silence")  # by the model, that is
PLAYED = (*TOLD, "truth", "codec")  # the columns with clips for the ear

Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True)
class Task:
    """`name` is in SYSTEMS, and `columns` are those of its systems that are compared over what `manifest` holds.

    `folder` takes what is made and the report. `train` is the manifest that the column "guess" is drawn from; None
    without that column.
    """

    name: str
    manifest: Path
    folder: Path
    columns: tuple[str, ...]
    train: Path | None = None

    @property
    def is_heard(self) -> bool:
        """Whether the model is given recordings."""
        return self.name != "stories" and bool({*self.columns} & {*TOLD, "silence"})


@dataclass(frozen=True, kw_only=True)
class StoryTask(Task):
    """Stories, or continuations. `guess` has what the column of that name tells."""

    truths: Sequence[TrueStory]
    guess: Sequence[ToldStory] = ()

    @property
    def counts(self) -> dict[str, int]:
        return {"stories": len(self.truths)}


@dataclass(frozen=True, kw_only=True)
class QuestionTask(Task):
    """Questions, all that are asked about a recording or none. `guess` has what the column of that name answers."""

    questions: Sequence[Question]
    guess: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        return {"recordings": len({entry.story for entry in self.questions}), "questions": len(self.questions)}


def stories(manifest: Path, folder: Path, systems: Collection[str], num: int) -> StoryTask:
    """The first `num` stories of a manifest. `systems` may name columns that other tasks have.

    ValueError, here and below, for a manifest that is none or too short, one that lacks the audio that a column needs,
    and systems of which the task has none.
    """
    columns = _columns("stories", systems)
    truths = _first(read_truth(manifest), num, manifest, "stories")
    if {*columns} & {"truth", "codec", "shuffled"}:
        _check_clips(manifest, truths, f"--split test --num {num}")
    return StoryTask(name="stories", manifest=manifest, folder=folder, columns=columns, truths=truths)


def continuations(
    manifest: Path, folder: Path, systems: Collection[str], num: int, train: Path | None = None
) -> StoryTask:
    """The first `num` continuations of a manifest; with `train`, a guess from its openings is one column more."""
    columns = _columns("continuations", [*systems, "guess"] if train else systems)
    truths = _first(read_truth(manifest), num, manifest, "continuations")
    if not all(truth.opening for truth in truths):
        raise ValueError(f"{manifest} holds stories without an opening; give it as --manifest")
    guess = guessed_continuations(read_truth(train), truths) if train else ()
    task = StoryTask(
        name="continuations",
        manifest=manifest,
        folder=folder,
        columns=columns,
        train=train,
        truths=truths,
        guess=guess,
    )
    arguments = f"--kind continuation --split test --num {num}"
    if {*columns} & {"truth", "codec"}:
        _check_clips(manifest, truths, arguments)
    if task.is_heard and not _are_files(truth.instruction.audio for truth in truths):
        raise ValueError(f"{manifest} lacks the openings that the model is to hear; {_how_to_write(arguments)}")
    return task


def questions(
    manifest: Path, folder: Path, systems: Collection[str], num: int, train: Path | None = None
) -> QuestionTask:
    """All questions about the first `num` recordings of a manifest; with `train`, the most frequent answers there are
    one column more."""
    columns = _columns("questions", [*systems, "guess"] if train else systems)
    entries = read_questions(manifest)
    chosen = _first(list(dict.fromkeys(entry.story for entry in entries)), num, manifest, "recordings")
    entries = [entry for entry in entries if entry.story in set(chosen)]
    guess = most_frequent_answers(read_questions(train), entries) if train else ()
    task = QuestionTask(
        name="questions",
        manifest=manifest,
        folder=folder,
        columns=columns,
        train=train,
        questions=entries,
        guess=guess,
    )
    if task.is_heard and not _are_files(entry.recording for entry in entries):
        how = _how_to_write(f"--kind question --split test --num {num}")
        raise ValueError(f"{manifest} lacks the recordings that the model is to hear; {how}")
    return task


def _columns(name: str, systems: Collection[str]) -> tuple[str, ...]:
    if columns := tuple(system for system in SYSTEMS[name] if system in systems):
        return columns
    raise ValueError(f"--systems {' '.join(systems)} leaves nothing to compare of the {name}; add told")


def _first(entries: list[Entry], num: int, manifest: Path, what: str) -> list[Entry]:
    if len(entries) < num:
        raise ValueError(
            f"{manifest} holds {len(entries)} {what}, {num} were asked: give --num {len(entries)}, "
            "or write more with scripts/make_soundworld.py"
        )
    return entries[:num]


def _check_clips(manifest: Path, truths: Sequence[TrueStory], arguments: str) -> None:
    if not _are_files(event.audio for truth in truths for event in truth.events):
        raise ValueError(
            f"{manifest} lacks the audio of its events, which truth, codec and shuffled need; "
            f"{_how_to_write(arguments)}\nor ask for --systems told"
        )


def _are_files(paths: Iterable[Path | None]) -> bool:
    return all(path and path.is_file() for path in paths)


def _how_to_write(arguments: str) -> str:
    return f"write it with audio, into a new folder:\n  python scripts/make_soundworld.py FOLDER {arguments}"
