"""Writes a corpus of the sound world: a manifest in the format of `data/README.md`, and the audio of every event.

A row depends on its own seed alone, so a corpus is the same however many processes write it. Rows are written in parts,
and a part counts once its lines stand under their final name, so a killed run goes on where it was. `corpus.json` holds
what the folder was asked to be, how the world sounded then, and at the end the manifest's checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from audiostory.soundworld.sounds import CLASSES, SAMPLE_RATE, Cast, Sound, render
from audiostory.soundworld.stories import KINDS, SPLITS, WorldStory, make_story

CROSSFADE_SECONDS = 0.5
ROWS_PER_PART = 100


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a folder is to hold: the stories of seeds `seed` .. `seed + num - 1`. `whole` adds each story in one file.

    ValueError for a value that no corpus can have.
    """

    kind: str
    split: str
    num: int
    seed: int = 0
    audio: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.split not in SPLITS:
            raise ValueError(
                f"expected a kind of {', '.join(KINDS)} and a split of {', '.join(SPLITS)}; "
                f"got {self.kind!r} and {self.split!r}"
            )
        if self.num < 1 or self.seed < 0:
            raise ValueError(f"expected at least 1 row and a seed of 0 or more; got {self.num} rows, seed {self.seed}")
        if self.whole and not self.audio:
            raise ValueError("whole stories are audio: ask for audio too, or leave whole out")

    def parts(self) -> list[range]:
        """The seeds of each part."""
        seeds = range(self.seed, self.seed + self.num)
        return [seeds[start : start + ROWS_PER_PART] for start in range(0, self.num, ROWS_PER_PART)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished corpus holds. `seconds` counts the events' audio with the cross-faded tails; `num_written` is the
    rows that this run had to make; `num_events` counts rows by their number of events."""

    num_rows: int
    num_written: int
    seconds: float
    num_events: dict[int, int]


def write_corpus(
    folder: str | Path,
    *,
    kind: str,
    split: str,
    num: int,
    seed: int = 0,
    audio: bool = True,
    whole: bool = False,
    workers: int = 1,
    on_rows: Callable[[int], object] | None = None,
) -> Summary:
    """Writes the corpus or what is missing of it. `on_rows` is told, part by part, how many rows are done.

    ValueError for arguments that make no sense, or a folder that holds something else.
    """
    folder, corpus = Path(folder), Corpus(kind=kind, split=split, num=num, seed=seed, audio=audio, whole=whole)
    if workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}")
    on_rows = on_rows or (lambda _: None)
    if _claim(folder, corpus):
        shutil.rmtree(folder / "parts", ignore_errors=True)  # a run may have been killed on its last line
        on_rows(corpus.num)
        return _summary(folder, num_written=0)
    (folder / "parts").mkdir(exist_ok=True)
    missing = [seeds for seeds in corpus.parts() if not _part_file(folder, seeds).exists()]
    num_missing = sum(map(len, missing))
    on_rows(corpus.num - num_missing)
    for num_rows in _write_parts(folder, corpus, missing, workers):
        on_rows(num_rows)
    content = b"".join(_part_file(folder, seeds).read_bytes() for seeds in corpus.parts())
    _write_whole(folder / "manifest.jsonl", content)
    _write_claim(folder, corpus, manifest_sha256=hashlib.sha256(content).hexdigest())
    shutil.rmtree(folder / "parts")
    return _summary(folder, num_written=num_missing)


def clip_seconds(story: WorldStory, index: int) -> float:
    """How long an event's clip is: the event, and for all but the last what the next cross-fade takes."""
    events = story.storyline.events
    return round(events[index].seconds + CROSSFADE_SECONDS * (index < len(events) - 1), 6)


def render_event(story: WorldStory, index: int) -> np.ndarray:
    """The sound of one event, float32 [samples] at SAMPLE_RATE, `clip_seconds` long; the same at every call."""
    seed = int(np.random.SeedSequence((story.cast.seed, index)).generate_state(1)[0])
    return render(story.sounds[index], story.cast, clip_seconds(story, index), seed)


def manifest_row(corpus: Corpus, seed: int, story: WorldStory) -> dict:
    """One row of the manifest, as it goes into JSON; audio paths are relative to the corpus's folder."""
    name = f"{corpus.split}{'-clip' if corpus.kind == 'clip' else ''}-{seed:06d}"
    events = [
        {
            "caption": event.caption,
            "start": event.start,
            "seconds": event.seconds,
            "story_detail": event.story_detail,
            "sound_detail": event.sound_detail,
            "audio": f"audio/{name}/{index}.wav" if corpus.audio else None,
            "clip_seconds": clip_seconds(story, index),
        }
        for index, event in enumerate(story.storyline.events)
    ]
    return {
        "id": name,
        "instruction": story.instruction.text,
        "total_seconds": story.instruction.total_seconds,
        "summary": story.storyline.summary,
        "events": events,
        "audio": f"audio/{name}/story.wav" if corpus.whole else None,
        "world": {
            "seed": seed,
            "sounds": [asdict(sound) for sound in story.sounds],
            "cast": asdict(story.cast),
            "unseen": list(story.unseen),
        },
    }


def _claim(folder: Path, corpus: Corpus) -> bool:
    """Makes the folder this corpus's own; returns whether it is finished already. ValueError if it is another's."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the corpus")
    claim = folder / "corpus.json"
    if not claim.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no corpus.json; name a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        _write_claim(folder, corpus, manifest_sha256=None)
        return False
    try:
        held = json.loads(claim.read_text(encoding="utf-8"))
        held_sha256 = held.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{claim} cannot be read ({error!r}); delete {folder} and write the corpus again") from error
    wanted, world = asdict(corpus), held.pop("world", {})
    if different := [key for key in wanted if wanted[key] != held.get(key)]:
        listed = ", ".join(f"{key} {held.get(key)} (asked now: {wanted[key]})" for key in different)
        raise ValueError(f"{folder} holds another corpus, with {listed}; name another folder, or delete this one")
    if changed := _changed(world, _world(corpus)):
        raise ValueError(
            f"{folder} comes from a version of the sound world with other {changed}; name another folder, or delete it"
        )
    if held_sha256 is None:
        return False
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() != held_sha256:
        raise ValueError(
            f"{manifest} is missing or was changed since it was written; delete {folder} and write it again"
        )
    return True


def _write_claim(folder: Path, corpus: Corpus, *, manifest_sha256: str | None) -> None:
    claim = {**asdict(corpus), "world": _world(corpus), "manifest_sha256": manifest_sha256}
    _write_whole(folder / "corpus.json", (json.dumps(claim) + "\n").encode())


def _world(corpus: Corpus) -> dict:
    """Tells versions of the sound world apart: a checksum of some rows, and each class's mean level and mean slope."""
    rows = [manifest_row(corpus, seed, make_story(seed, corpus.split, corpus.kind)) for seed in range(8)]
    sounds = {}
    if corpus.audio:
        cast = Cast(
            place="room", pitches={name: "middle" for name, entry in CLASSES.items() if entry.has_pitch}, seed=0
        )
        for name in CLASSES:
            samples = render(Sound(name=name), cast, seconds=1.0, seed=0)
            sounds[name] = [float(np.abs(samples).mean()), float(np.abs(np.diff(samples)).mean())]
    return {"grammar": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12], "sounds": sounds}


def _changed(held: dict, now: dict) -> str:
    """What differs between two worlds, in words; sounds may differ by the rounding of another machine."""
    if held.get("grammar") != now["grammar"]:
        return "texts"
    names = [name for name, levels in now["sounds"].items() if not np.allclose(held["sounds"][name], levels, rtol=1e-3)]
    return f"sounds ({', '.join(names)})" if names else ""


def _write_parts(folder: Path, corpus: Corpus, parts: list[range], workers: int) -> Iterator[int]:
    """Yields the number of rows of each part as soon as it stands."""
    if workers == 1 or len(parts) < 2:
        yield from (_write_part(folder, corpus, seeds) for seeds in parts)
        return
    pool = ProcessPoolExecutor(min(workers, len(parts)), mp_context=get_context("spawn"))
    try:
        for done in as_completed([pool.submit(_write_part, folder, corpus, seeds) for seeds in parts]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_part(folder: Path, corpus: Corpus, seeds: range) -> int:
    lines = []
    for seed in seeds:
        story = make_story(seed, corpus.split, corpus.kind)
        row = manifest_row(corpus, seed, story)
        if corpus.audio:
            _write_audio(folder, row, [render_event(story, index) for index in range(len(story.sounds))])
        lines.append(json.dumps(row) + "\n")
    _write_whole(_part_file(folder, seeds), "".join(lines).encode())
    return len(seeds)


def _write_audio(folder: Path, row: dict, clips: list[np.ndarray]) -> None:
    import soundfile

    for event, samples in zip(row["events"], clips, strict=True):
        path = folder / event["audio"]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    if row["audio"]:
        from audiostory.sound import Waveform, crossfade

        waveforms = [Waveform(samples=samples[None], sample_rate=SAMPLE_RATE) for samples in clips]
        story = crossfade(waveforms, CROSSFADE_SECONDS)
        soundfile.write(folder / row["audio"], story.samples[0], SAMPLE_RATE, subtype="PCM_16")


def _part_file(folder: Path, seeds: range) -> Path:
    return folder / "parts" / f"{seeds.start:08d}.jsonl"


def _write_whole(path: Path, content: bytes) -> None:
    """The file appears with all its content or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _summary(folder: Path, *, num_written: int) -> Summary:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return Summary(
        num_rows=len(rows),
        num_written=num_written,
        seconds=sum(event["clip_seconds"] for row in rows for event in row["events"]),
        num_events=dict(sorted(Counter(len(row["events"]) for row in rows).items())),
    )
