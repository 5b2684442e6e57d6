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
    "truth": "the corpus's own clips: the most that the ear can hear",
    "codec": "the corpus's clips through a model's codec: the most that the model can sound like",
    "shuffled": "chance: each story answered with another one's truth; for the cast, each event with the clip of the "
    "same sound from another story",
}
CONTINUATIONS = {
    "truth": STORIES["truth"],
    "codec": STORIES["codec"],
    "silence": "the same model, planning by the same instruction after silence as long as the opening",
    "guess": "without listening: what is named is right, and for each sound that is referred to stands the one most "
    "often heard in the openings of training; the number of events is given away",
    "shuffled": "chance: what is named is right, and what is referred to comes from another opening of as many sounds",
}
QUESTIONS = {
    "silence": "the same model's answers about silence as long as the recording",
    "guess": "without listening: what questions of the same kind are answered with most often in training",
    "shuffled": "chance: the right answer to a question of the same kind about another recording",
}
CONTROLS = {"stories": STORIES, "continuations": CONTINUATIONS, "questions": QUESTIONS}

Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True)
class Task:
    """`name` is in CONTROLS, and `controls` are those of its columns that stand beside the systems, over what
    `manifest` holds.

    `folder` takes what is made and the report. `train` is the manifest that the column "guess" is drawn from; None
    without that column.
    """

    name: str
    manifest: Path
    folder: Path
    controls: tuple[str, ...]
    train: Path | None = None


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


def stories(manifest: Path, folder: Path, controls: Collection[str], num: int) -> StoryTask:
    """The first `num` stories of a manifest. `controls` may name columns that other tasks have.

    ValueError, here and below, for a manifest that is none or too short, and one that lacks audio that is needed.
    """
    columns = _columns("stories", controls)
    truths = _first(read_truth(manifest), num, manifest, "stories")
    _check_clips(manifest, truths, f"--split test --num {num}")
    return StoryTask(name="stories", manifest=manifest, folder=folder, controls=columns, truths=truths)


def continuations(
    manifest: Path, folder: Path, controls: Collection[str], num: int, train: Path | None = None
) -> StoryTask:
    """The first `num` continuations of a manifest; "guess" is made of the openings in `train`, and left out without."""
    columns = _columns("continuations", controls, train)
    truths = _first(read_truth(manifest), num, manifest, "continuations")
    if not all(truth.opening for truth in truths):
        raise ValueError(f"{manifest} holds stories without an opening; give it as suite.stories")
    arguments = f"--kind continuation --split test --num {num}"
    _check_clips(manifest, truths, arguments)
    if not _are_files(truth.instruction.audio for truth in truths):
        raise ValueError(f"{manifest} lacks the openings that a model is to hear; {_how_to_write(arguments)}")
    return StoryTask(
        name="continuations",
        manifest=manifest,
        folder=folder,
        controls=columns,
        train=train if "guess" in columns else None,
        truths=truths,
        guess=guessed_continuations(read_truth(train), truths) if train and "guess" in columns else (),
    )


def questions(
    manifest: Path, folder: Path, controls: Collection[str], num: int, train: Path | None = None
) -> QuestionTask:
    """All questions about the first `num` recordings of a manifest; "guess" has the most frequent answers in `train`,
    and is left out without."""
    columns = _columns("questions", controls, train)
    entries = read_questions(manifest)
    chosen = _first(list(dict.fromkeys(entry.story for entry in entries)), num, manifest, "recordings")
    entries = [entry for entry in entries if entry.story in set(chosen)]
    if not _are_files(entry.recording for entry in entries):
        how = _how_to_write(f"--kind question --split test --num {num} --seed 200000")
        raise ValueError(f"{manifest} lacks the recordings that a model is to hear; {how}")
    return QuestionTask(
        name="questions",
        manifest=manifest,
        folder=folder,
        controls=columns,
        train=train if "guess" in columns else None,
        questions=entries,
        guess=most_frequent_answers(read_questions(train), entries) if train and "guess" in columns else (),
    )


def _columns(name: str, controls: Collection[str], train: Path | None = None) -> tuple[str, ...]:
    return tuple(control for control in CONTROLS[name] if control in controls and (control != "guess" or train))


def _first(entries: list[Entry], num: int, manifest: Path, what: str) -> list[Entry]:
    if len(entries) < num:
        raise ValueError(
            f"{manifest} holds {len(entries)} {what}, {num} were asked: give suite.num={len(entries)}, or name a "
            "manifest that is not there yet, and it is written"
        )
    return entries[:num]


def _check_clips(manifest: Path, truths: Sequence[TrueStory], arguments: str) -> None:
    if not _are_files(event.audio for truth in truths for event in truth.events):
        raise ValueError(
            f"{manifest} lacks the audio of its events, which the truth is heard by; {_how_to_write(arguments)}"
        )


def _are_files(paths: Iterable[Path | None]) -> bool:
    return all(path and path.is_file() for path in paths)


def _how_to_write(arguments: str) -> str:
    return f"write it with audio, into a new folder:\n  python scripts/make_soundworld.py FOLDER {arguments}"
