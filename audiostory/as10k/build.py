"""The whole way from folders of videos to rows, step by step; each step's ledger lies in OUTPUT/work.

videos -> shots -> clips -> events -> sequences -> stories -> rows. What a step makes depends on what it is given and on
its own settings, and only on those: changing a fade never asks a model again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from audiostory.as10k import clips, events, rows, shots, stories, tiling, videos
from audiostory.as10k.answers import Ask
from audiostory.as10k.events import Annotation
from audiostory.as10k.ledger import Dropped, Entry, Ledger, digest, sizes
from audiostory.as10k.settings import (
    STEPS,
    ClipSettings,
    EventSettings,
    RowSettings,
    Settings,
    StorySettings,
    VideoSettings,
)
from audiostory.as10k.shots import Span
from audiostory.as10k.similarity import Likeness
from audiostory.as10k.stories import Point
from audiostory.as10k.tiling import Tile
from audiostory.as10k.videos import Source
from audiostory.as10k.work import Count, Job, Make, Outcome, Workers, do
from audiostory.disk import write_text
from audiostory.story import Storyline

SPLITS = ("train", "test")
VERSION = 1  # raised when a step makes something else of the same things


@dataclass(frozen=True, kw_only=True)
class Model:
    """Who is asked. `name` tells one model from another in the ledgers; `sees` is whether it is given the picture.
    `workers` are those who ask it, if not the plan's."""

    name: str
    ask: Ask
    sees: bool = False
    workers: Workers | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is wanted. `folders` are the videos' by domain; without models, `until` must be before "events"."""

    folders: Mapping[str, Path]
    output: Path
    settings: Settings
    likeness: Likeness
    annotator: Model | None = None
    writer: Model | None = None
    until: str = "rows"
    again: bool = False
    workers: Workers
    watch: Callable[[Iterable[Outcome], int, str], Iterable[Outcome]] = lambda outcomes, total, name: outcomes


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip on its way: what it was cut from, and its entries so far."""

    id: str
    source: Source
    span: Span
    entry: Entry
    annotation: Annotation | None = None
    tiles: tuple[Tile, ...] = ()
    story: Entry | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """The lines of the summary, and the rows of each split."""

    counts: list[Count]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def build(plan: Plan) -> Built:
    """Does what is left to do. ValueError for folders that cannot be used and a model that does not answer."""
    _check(plan)
    counts: list[Count] = []
    found = _videos(plan, _count(counts, "videos", "file"))
    if plan.until == "videos":
        return Built(counts=counts)
    spans = _shots(plan, found, _count(counts, "shots", "span"))
    if plan.until == "shots":
        return Built(counts=counts)
    cut = _clips(plan, spans, _count(counts, "clips", "clip"))
    if plan.until == "clips":
        return Built(counts=counts)
    heard = _events(plan, cut, _count(counts, "events", "clip"))
    told = _sequences(plan, heard, _count(counts, "sequences", "clip"))
    if plan.until == "events":
        return Built(counts=counts)
    told = _stories(plan, told, _count(counts, "stories", "clip"))
    if plan.until == "stories":
        return Built(counts=counts)
    files = _recordings(plan, told, _count(counts, "recordings", "clip"))
    return Built(counts=counts, rows=_rows(plan, told, files, _count(counts, "rows", "row")))


def write_manifests(output: Path, made: Mapping[str, list[dict[str, Any]]]) -> list[Path]:
    """OUTPUT/train/manifest.jsonl and OUTPUT/test/manifest.jsonl; none for a split without rows."""
    written = []
    for split in SPLITS:
        file = output / split / "manifest.jsonl"
        if not made.get(split):
            file.unlink(missing_ok=True)
            continue
        write_text(file, "".join(json.dumps(row) + "\n" for row in made[split]))
        written.append(file)
    return written


def _count(counts: list[Count], step: str, unit: str) -> Count:
    counts.append(Count(step=step, unit=unit))
    return counts[-1]


def _check(plan: Plan) -> None:
    if plan.until not in STEPS:
        raise ValueError(f"there is no step {plan.until!r}; there are {', '.join(STEPS)}")
    if not plan.folders:
        raise ValueError("there are no videos to begin with: give a folder of natural ones, of cartoons, or both")
    output = plan.output.resolve()
    for folder in plan.folders.values():
        if output == folder.resolve() or folder.resolve() in output.parents:
            raise ValueError(f"{plan.output} lies in the folder of videos {folder}; choose an output outside it")
    needs = [("annotator", plan.annotator, "events"), ("writer", plan.writer, "stories")]
    for name, model, step in needs:
        if model is None and STEPS.index(plan.until) >= STEPS.index(step):
            raise ValueError(f"the step {step!r} asks a model, and there is no {name}; give one, or stop before it")


def _do(plan: Plan, count: Count, jobs: list[Job], make: Make, model: Model | None = None) -> dict[str, Entry]:
    """`model` is who is asked, if the step asks one."""
    ledger = Ledger(plan.output / "work" / f"{count.step}.jsonl", plan.output)
    workers = (model.workers if model else None) or plan.workers
    return do(count, jobs, make, ledger, workers, plan.watch, again=plan.again and model is not None)


def _path(plan: Plan, source: Source) -> str:
    return str(plan.folders[source.domain] / source.name)


# --- videos ---


@dataclass(frozen=True, kw_only=True)
class Probe:
    limits: VideoSettings

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        return videos.probe(Path(job.given["path"]), self.limits), {}


def _videos(plan: Plan, count: Count) -> list[tuple[Source, Entry]]:
    limits, sources = plan.settings.video, {}
    for domain, folder in plan.folders.items():
        found, left_out = videos.find(folder, domain, limits)
        sources |= {source.key: source for source in found}
        count.found += len(left_out)
        for name, reason in left_out:
            count.drop(f"{domain}/{name}", reason)
    jobs = [
        Job(
            key=key,
            made_of=digest(VERSION, source.size, source.changed, asdict(limits)),
            given={"path": _path(plan, source)},
        )
        for key, source in sources.items()
    ]
    entries = _do(plan, count, jobs, Probe(limits=limits))
    # Of two files with the same content that stays which was here first, so that a copy that comes later moves nothing.
    first: dict[str, str] = {}
    for key in Ledger(plan.output / "work" / "videos.jsonl", plan.output).entries:
        if key in entries:
            first.setdefault(entries[key].result["sha256"], key)
    unique = []
    for key, entry in entries.items():
        if (same := first[entry.result["sha256"]]) == key:
            unique.append((sources[key], entry))
        else:
            count.kept -= 1
            count.drop(key, "the same file as another", same)
    return unique


# --- shots ---


@dataclass(frozen=True, kw_only=True)
class FindSpans:
    settings: Settings
    likeness: Likeness

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        settings, seconds = self.settings.shots(job.given["domain"]), job.given["seconds"]
        if not settings.find_shots:
            return {"spans": [asdict(span) for span in shots.pieces(seconds, settings)]}, {}
        seen = shots.look(Path(job.given["path"]), seconds, settings, self.settings.video, self.likeness)
        spans = [asdict(span) for span in shots.scenes(seen, settings)]
        return {"spans": spans, "similarity": self.likeness.name, "shots": len(seen.cuts) + 1}, {}


def _shots(plan: Plan, found: list[tuple[Source, Entry]], count: Count) -> list[tuple[Source, Entry, Span]]:
    jobs = []
    for source, entry in found:
        settings = plan.settings.shots(source.domain)
        likeness = plan.likeness.name if settings.find_shots else ""
        jobs.append(
            Job(
                key=source.key,
                made_of=digest(VERSION, entry.digest, asdict(settings), likeness),
                given={"path": _path(plan, source), "domain": source.domain, "seconds": entry.result["seconds"]},
            )
        )
    entries = _do(plan, count, jobs, FindSpans(settings=plan.settings, likeness=plan.likeness))
    # Videos that cannot be looked at count as one span each, and those that can as the spans that they have.
    count.found, count.kept = len(jobs) - len(entries), 0
    spans = []
    for source, entry in found:
        for data in entries[source.key].result["spans"] if source.key in entries else ():
            span = Span(**data)
            count.found += 1
            if span.dropped:
                count.drop(f"{source.key} {span.start:.1f}-{span.end:.1f} s", span.dropped)
            else:
                count.kept += 1
                spans.append((source, entry, span))
    return spans


# --- clips ---


@dataclass(frozen=True, kw_only=True)
class Cut:
    output: Path
    clip: ClipSettings
    limits: VideoSettings

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        span, folder = Span(**job.given["span"]), self.output / "work" / "clips"
        audio, picture = clips.cut(Path(job.given["path"]), span, folder, job.key, self.clip, self.limits)
        result = {"audio": audio.name, "picture": picture.name, "seconds": round(span.seconds, 1)}
        return result, sizes(self.output, audio, picture)


def _clips(plan: Plan, spans: list[tuple[Source, Entry, Span]], count: Count) -> list[Clip]:
    jobs, places = [], {}
    for source, entry, span in spans:
        # The name tells the tenth of a second at which a clip begins: it stays when other settings find more clips.
        key = f"{source.clip_prefix}-{round(span.start * 10):06d}"
        made_of = digest(VERSION, entry.result["sha256"], span.start, span.end, asdict(plan.settings.clip))
        jobs.append(Job(key=key, made_of=made_of, given={"path": _path(plan, source), "span": asdict(span)}))
        places[key] = (source, span)
    make = Cut(output=plan.output, clip=plan.settings.clip, limits=plan.settings.video)
    entries = _do(plan, count, jobs, make)
    return [Clip(id=key, source=places[key][0], span=places[key][1], entry=entry) for key, entry in entries.items()]


# --- events ---


@dataclass(frozen=True, kw_only=True)
class Annotate:
    output: Path
    model: Model
    settings: EventSettings

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        media = self.output / "work" / "clips" / job.given["picture" if self.model.sees else "audio"]
        seconds, sees = job.given["seconds"], self.model.sees
        annotation = events.annotate(self.model.ask, media, seconds, self.settings, sees=sees)
        return events.to_json(annotation), {}


def _events(plan: Plan, cut: list[Clip], count: Count) -> list[Clip]:
    model = plan.annotator
    assert model is not None  # _check
    asked = (events.PROMPT, events.SEEN, model.name, model.sees, plan.settings.event.max_items)
    jobs = [
        Job(key=clip.id, made_of=digest(VERSION, clip.entry.digest, asked), given=clip.entry.result) for clip in cut
    ]
    make = Annotate(output=plan.output, model=model, settings=plan.settings.event)
    entries = _do(plan, count, jobs, make, model)
    return [replace(clip, annotation=events.from_json(entries[clip.id].result)) for clip in cut if clip.id in entries]


def _sequences(plan: Plan, heard: list[Clip], count: Count) -> list[Clip]:
    """Clips with events that follow each other, laid out; a matter of milliseconds, so it has no ledger."""
    told, settings = [], plan.settings.event
    count.found = len(heard)
    for clip in heard:
        assert clip.annotation is not None
        assert plan.annotator is not None
        try:
            events.check_story(clip.annotation, settings, sees=plan.annotator.sees)
        except Dropped as why:
            count.drop(clip.id, why.reason, why.detail)
            continue
        tiles = tiling.tile(clip.annotation.main_events, clip.entry.result["seconds"], settings)
        if len({tile.event for tile in tiles}) < settings.min_events:
            count.drop(clip.id, f"fewer than {settings.min_events} events are left once laid out")
            continue
        told.append(replace(clip, tiles=tiles))
    count.kept = len(told)
    return told


# --- stories ---


@dataclass(frozen=True, kw_only=True)
class Tell:
    model: Model
    settings: StorySettings

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        annotation = events.from_json(job.given["annotation"])
        tiles = tuple(Tile(**tile) for tile in job.given["tiles"])
        caption = stories.write_caption(self.model.ask, annotation, self.settings)
        points = stories.write_points(self.model.ask, caption, annotation, tiles, self.settings)
        return {"caption": caption, "points": [asdict(point) for point in points]}, {}


def _stories(plan: Plan, told: list[Clip], count: Count) -> list[Clip]:
    model = plan.writer
    assert model is not None  # _check
    asked = (stories.CAPTION_PROMPT, stories.POINTS_PROMPT, model.name, asdict(plan.settings.story))
    jobs = []
    for clip in told:
        assert clip.annotation is not None
        given = {"annotation": events.to_json(clip.annotation), "tiles": [asdict(tile) for tile in clip.tiles]}
        jobs.append(Job(key=clip.id, made_of=digest(VERSION, given, asked), given=given))
    entries = _do(plan, count, jobs, Tell(model=model, settings=plan.settings.story), model)
    return [replace(clip, story=entries[clip.id]) for clip in told if clip.id in entries]


def _storyline(clip: Clip) -> Storyline:
    assert clip.annotation is not None
    assert clip.story is not None
    points = [Point(**point) for point in clip.story.result["points"]]
    return stories.storyline(clip.story.result["caption"], clip.annotation, clip.tiles, points)


# --- rows ---


@dataclass(frozen=True, kw_only=True)
class CutEvents:
    output: Path
    told: Mapping[str, Storyline]
    settings: RowSettings

    def __call__(self, job: Job) -> tuple[Mapping[str, Any], Mapping[str, int]]:
        kept, folder = self.output / "work" / "clips", self.output / job.given["split"]
        files = clips.cut_events(
            kept / job.given["audio"],
            kept / job.given["picture"] if job.given["dubbed"] else None,
            self.told[job.key],
            folder / "audio" / job.key,
            self.settings,
            opening="continuation" in job.given["variants"],
        )
        names = {name: file.relative_to(folder).as_posix() for name, file in files.items()}
        return {"files": names}, sizes(self.output, *files.values())


def _recordings(plan: Plan, told: list[Clip], count: Count) -> dict[str, Mapping[str, str]]:
    settings = plan.settings.row
    storylines = {clip.id: _storyline(clip) for clip in told}
    jobs = []
    for clip in told:
        variants = rows.variants_of(clip.source.domain, settings)
        given = {
            **clip.entry.result,
            "split": rows.split_of(clip.source.name, settings),
            "dubbed": "dubbing" in variants,
            "variants": variants,
        }
        times = [(tile.start, tile.end) for tile in clip.tiles]
        # "rest": recordings that were cut before a continuation had one of its own are cut anew.
        made_of = digest(
            VERSION, "rest", clip.entry.digest, given, times, settings.fade_seconds, settings.opening_seconds
        )
        jobs.append(Job(key=clip.id, made_of=made_of, given=given))
    entries = _do(plan, count, jobs, CutEvents(output=plan.output, told=storylines, settings=settings))
    return {key: entry.result["files"] for key, entry in entries.items()}


def _rows(
    plan: Plan, told: list[Clip], files: Mapping[str, Mapping[str, str]], count: Count
) -> dict[str, list[dict[str, Any]]]:
    settings = plan.settings.row
    made: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for clip in sorted(told, key=lambda clip: clip.id):
        if clip.id not in files:
            continue
        source = {"video": clip.source.key, "start": clip.span.start, "end": round(clip.span.end, 3)}
        storyline = _storyline(clip)
        for variant in rows.variants_of(clip.source.domain, settings):
            count.found += 1
            try:
                row = rows.make(variant, clip.id, storyline, files[clip.id], source, settings)
            except Dropped as why:
                count.drop(f"{clip.id}-{variant}", why.reason, why.detail)
                continue
            made[rows.split_of(clip.source.name, settings)].append(row)
    count.kept = count.new = sum(len(split) for split in made.values())
    return made
