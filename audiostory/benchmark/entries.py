"""What the page shows of each story: from the items, what systems left on disk, and what was heard. No torch here.

items = sound_world_items(truths, folder / "truth")
columns = {"truth": read_references(items), "told": read_recorded(folder / "told", items)}
heard = {name: heard_stories(truths, stories[name], answers[name], answers["truth"]) for name in columns}
stories = entries(items, columns, heard)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark.distribution import KL, event_divergences
from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.items import Heard, ToldStory, TrueStory
from audiostory.benchmark.page import Entry, Mark, Telling
from audiostory.benchmark.recorded import Fault, Item, Recorded, RecordedStory
from audiostory.benchmark.soundworld import Answers, score_cast, score_plans, score_sounds
from audiostory.soundworld.corpus import CROSSFADE_SECONDS


@dataclass(frozen=True, kw_only=True)
class HeardStory:
    """What is known of one story by listening: figures of its own, and a mark for each of its events."""

    scores: Mapping[str, float] = field(default_factory=dict)
    marks: Sequence[Mark] = ()


UNHEARD = HeardStory()


def entries(
    items: Sequence[Item],
    columns: Mapping[str, Recorded],
    heard: Mapping[str, Sequence[HeardStory]] | None = None,
) -> list[Entry]:
    """A story per item, with what each system told of it or why it did not. `heard` has of a system a HeardStory per
    item, in their order; a system that it leaves out shows neither figures nor marks."""
    heard = heard or {}
    tellings: list[dict[str, Telling]] = [{} for _ in items]
    for system, recorded in columns.items():
        faults = {fault.id: fault for fault in recorded.faults}
        found = heard.get(system, [UNHEARD] * len(items))
        for item, own, known in zip(items, tellings, found, strict=True):
            story = recorded.stories.get(item.id)
            own[system] = _failed(faults[item.id], known) if story is None else _told(story, known)
    return [
        Entry(id=item.id, instruction=item.instruction.text, tellings=own)
        for item, own in zip(items, tellings, strict=True)
    ]


def heard_stories(
    truths: Sequence[TrueStory], stories: Sequence[ToldStory], answers: Answers, truth_answers: Answers | None = None
) -> list[HeardStory]:
    """The measures of the report for each story alone, where it is asked them, and what the ear hears in each event.

    `truth_answers` is what the ear hears in the true clips, for the divergence; None leaves that out.
    """
    kl = event_divergences(answers, truth_answers) if truth_answers else [[]] * len(truths)
    found = []
    for truth, story, clips, divergences in zip(truths, stories, answers, kl, strict=True):
        scores: dict[str, Score] = {
            **score_plans([truth], [story]),
            **score_sounds([truth], [clips]),
            **score_cast([truth], [clips]),
            KL: bootstrap([divergences]),
        }
        asked = {name: score.mean for name, score in scores.items() if score.num}
        found.append(HeardStory(scores=asked, marks=_marks(truth, clips)))
    return found


def sound_world_items(truths: Sequence[TrueStory], folder: Path) -> list[Item]:
    """The truth as any system's stories are read, with the recording of the whole story as its reference.

    A corpus without whole stories has its true clips joined into `folder`, once; one without audio has no references.
    """
    bar = tqdm(truths, desc="joining the true clips", unit="story", delay=1)
    return [
        Item(
            id=truth.id,
            instruction=truth.instruction,
            caption=truth.storyline.summary,
            events=truth.storyline.events,
            reference=truth.audio or _joined(truth, folder / f"{truth.id}.wav"),
        )
        for truth in bar
    ]


def _joined(truth: TrueStory, file: Path) -> Path | None:
    clips = [event.audio for event in truth.events if event.audio]
    if len(clips) < len(truth.events):
        return None
    if not file.is_file():
        sound.write(file, sound.crossfade([sound.read(clip) for clip in clips], CROSSFADE_SECONDS))
    return file


def _marks(truth: TrueStory, clips: Iterable[Heard]) -> list[Mark]:
    """Right where the clip sounds as the event that belongs in its place; one too many is never right."""
    names = [event.name for event in truth.events]
    return [
        Mark(right=place < len(names) and heard.name == names[place], heard=heard.name)
        for place, heard in enumerate(clips)
    ]


def _told(story: RecordedStory, known: HeardStory) -> Telling:
    return Telling(
        captions=[event.caption for event in story.events],
        starts=[event.start for event in story.events],
        seconds=[event.seconds for event in story.events],
        audio=story.audio,
        scores=known.scores,
        marks=known.marks,
    )


def _failed(fault: Fault, known: HeardStory) -> Telling:
    return Telling(reason=f"{fault.kind}: {fault.reason}", scores=known.scores)
