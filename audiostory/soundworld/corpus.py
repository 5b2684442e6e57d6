"""Writes a corpus of the sound world: a manifest in the format of `data/README.md`, and the audio of every event, or of
what is heard before a question or a continuation.

A row depends on its own seed alone, so a corpus is the same however many processes write it. Rows are written in parts,
and a part counts once its lines stand under their final name, so a killed run goes on where it was. `corpus.json` holds
what the folder was asked to be, how the world sounded then, and at the end the manifest's checksum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from audiostory.disk import replacing, write_text
from audiostory.soundworld.continuations import Continuation, make_continuation
from audiostory.soundworld.questions import MAX_QUESTIONS, Quiz, as_heard, make_quiz, reasoning
from audiostory.soundworld.sounds import CLASSES, SAMPLE_RATE, Cast, Sound, render
from audiostory.soundworld.stories import SPLITS, WorldStory, make_story

KINDS = ("clip", "story", "question", "continuation")

CROSSFADE_SECONDS = 0.5
ROWS_PER_PART = 100  # of questions, recordings
QUESTIONS_PER_STORY = 4


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a folder is to hold: the stories of seeds `seed` .. `seed + num - 1`. `whole` adds each story in one file.
    A corpus of questions has `per_story` rows for each seed, and others leave that None. One of stories may ask for
    most of them in `mixed` frames, and others leave that None.

    ValueError for a value that no corpus can have.
    """

    kind: str
    split: str
    num: int
    seed: int = 0
    audio: bool = True
    whole: bool = False
    per_story: int | None = None
    mixed: bool | None = None

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
        if self.mixed and (self.kind != "story" or self.split == "test"):
            raise ValueError(
                f"only stories for training have mixed frames; leave mixed out of a {self.split} {self.kind}"
            )
        if self.kind != "question":
            if self.per_story is not None:
                raise ValueError(f"a {self.kind} has one row; leave per_story={self.per_story} out")
        elif self.per_story is None or not 1 <= self.per_story <= MAX_QUESTIONS:
            raise ValueError(f"expected 1 to {MAX_QUESTIONS} questions per story, got {self.per_story}")
        elif self.whole:
            raise ValueError("questions are about whole stories, which are written anyway: leave whole out")

    @property
    def rows_per_seed(self) -> int:
        return self.per_story or 1

    def claim(self) -> dict:
        """As it goes into `corpus.json`."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def parts(self) -> list[range]:
        """The seeds of each part."""
        seeds = range(self.seed, self.seed + self.num)
        return [seeds[start : start + ROWS_PER_PART] for start in range(0, self.num, ROWS_PER_PART)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished corpus holds. `seconds` counts the events' audio with the cross-faded tails, and what is heard;
    `num_written` is the rows that this run had to make; `num_events` counts rows by their number of events, those of
    questions by the events that are heard."""

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
    per_story: int | None = None,
    mixed: bool | None = None,
    workers: int = 1,
    on_rows: Callable[[int], object] | None = None,
) -> Summary:
    """Writes the corpus or what is missing of it. `on_rows` is told, part by part, how many seeds are done: rows, or of
    questions recordings. `per_story` is for questions alone, QUESTIONS_PER_STORY if left out, and
    `mixed` for stories alone.

    ValueError for arguments that make no sense, or a folder that holds something else.
    """
    if kind == "question" and per_story is None:
        per_story = QUESTIONS_PER_STORY
    folder = Path(folder)
    corpus = Corpus(
        kind=kind, split=split, num=num, seed=seed, audio=audio, whole=whole, per_story=per_story, mixed=mixed or None
    )
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
    with replacing(folder / "manifest.jsonl") as unfinished:
        unfinished.write_bytes(content)
    _write_claim(folder, corpus, manifest_sha256=hashlib.sha256(content).hexdigest())
    shutil.rmtree(folder / "parts")
    return _summary(folder, num_written=num_missing * corpus.rows_per_seed)


def clip_seconds(story: WorldStory, index: int) -> float:
    """How long an event's clip is: the event, and for all but the last what the next cross-fade takes."""
    events = story.storyline.events
    return round(events[index].seconds + CROSSFADE_SECONDS * (index < len(events) - 1), 6)


def render_event(story: WorldStory, index: int, num_before: int = 0) -> np.ndarray:
    """The sound of one event, float32 [samples] at SAMPLE_RATE, `clip_seconds` long; the same at every call. What
    follows an opening of `num_before` events does not repeat its strokes."""
    seed = int(np.random.SeedSequence((story.cast.seed, num_before + index)).generate_state(1)[0])
    return render(story.sounds[index], story.cast, clip_seconds(story, index), seed)


def manifest_row(corpus: Corpus, seed: int, story: WorldStory) -> dict:
    """The row of a story or clip, as it goes into JSON; audio paths are relative to the corpus's folder."""
    name = _name(corpus, seed)
    return {
        "id": name,
        **_told(corpus, name, story),
        "world": {
            "seed": seed,
            "sounds": [asdict(sound) for sound in story.sounds],
            "cast": asdict(story.cast),
            "unseen": list(story.unseen),
        },
    }


def question_rows(corpus: Corpus, seed: int, quiz: Quiz) -> list[dict]:
    """The rows that ask about one story. All hear the same recording, the whole of it; in a corpus without audio the
    instruction tells it in words before the question."""
    name, story = _name(corpus, seed), quiz.story
    content = [what for what in story.unseen if what in ("combination", "pair")]  # nobody reads its instruction
    return [
        {
            "id": f"{name}-{number}",
            "instruction": question.text if corpus.audio else f"{as_heard(story)}. {question.text}",
            "heard": f"audio/{name}/story.wav" if corpus.audio else None,
            "reasoning": reasoning(story, question),
            "answer": question.answer,
            "world": {
                "seed": seed,
                "sounds": [asdict(sound) for sound in story.sounds],
                "cast": asdict(story.cast),
                "unseen": [*content, *(["wording"] if question.unseen else [])],
                "heard_seconds": round(story.storyline.total_seconds, 6),
                "question": question.kind,
                "about": list(question.about),
            },
        }
        for number, question in enumerate(quiz.questions)
    ]


def continuation_row(corpus: Corpus, seed: int, made: Continuation) -> dict:
    """The row of a continuation: its events are what follows the opening."""
    name = _name(corpus, seed)
    return {
        "id": name,
        "heard": f"audio/{name}/opening.wav" if corpus.audio else None,
        **_told(corpus, name, made.story),
        "world": {
            "seed": seed,
            "sounds": [asdict(sound) for sound in made.story.sounds],
            "cast": asdict(made.story.cast),
            "unseen": list(made.story.unseen),
            "heard_seconds": round(made.opening.storyline.total_seconds, 6),
            "opening": [asdict(sound) for sound in made.opening.sounds],
            "references": list(made.references),
        },
    }


def _name(corpus: Corpus, seed: int) -> str:
    return f"{corpus.split}{'' if corpus.kind == 'story' else f'-{corpus.kind}'}-{seed:06d}"


def _told(corpus: Corpus, name: str, story: WorldStory) -> dict:
    """What is asked for and the plan that answers it."""
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
        "instruction": story.instruction.text,
        "total_seconds": story.instruction.total_seconds,
        "summary": story.storyline.summary,
        "events": events,
        "audio": f"audio/{name}/story.wav" if corpus.whole else None,
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
    wanted, world = corpus.claim(), held.pop("world", {})
    if different := [key for key in {**wanted, **held} if wanted.get(key) != held.get(key)]:
        listed = ", ".join(f"{key} {held.get(key)} (asked now: {wanted.get(key)})" for key in different)
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
    claim = {**corpus.claim(), "world": _world(corpus), "manifest_sha256": manifest_sha256}
    write_text(folder / "corpus.json", json.dumps(claim) + "\n")


def _world(corpus: Corpus) -> dict:
    """Tells versions of the sound world apart: a checksum of some rows, and each class's mean level and mean slope."""
    rows = [row for seed in range(8) for row in _made(corpus, seed)[0]]
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
        rows, clips, recordings = _made(corpus, seed)
        if corpus.audio:
            rendered = [render_event(*clip) for clip in clips]
            for name, which in recordings.items():
                _write_audio(folder / name, [rendered[index] for index in which])
        lines += [json.dumps(row) + "\n" for row in rows]
    write_text(_part_file(folder, seeds), "".join(lines))
    return len(seeds)


def _made(corpus: Corpus, seed: int) -> tuple[list[dict], list[tuple[WorldStory, int, int]], dict[str, range]]:
    """The rows of one seed; the clips that are heard in them, as `render_event` takes them; and for each recording the
    clips that are joined to it."""
    if corpus.kind == "question":
        quiz = make_quiz(seed, corpus.split, corpus.rows_per_seed)
        rows, clips = question_rows(corpus, seed, quiz), _clips(quiz.story)
        return rows, clips, {rows[0]["heard"]: range(len(clips))}
    if corpus.kind == "continuation":
        made = make_continuation(seed, corpus.split)
        row, heard = continuation_row(corpus, seed, made), _clips(made.opening)
        recordings = {row["heard"]: range(len(heard)), **_recordings(row, len(heard))}
        return [row], [*heard, *_clips(made.story, len(heard))], recordings
    story = make_story(seed, corpus.split, corpus.kind, bool(corpus.mixed))
    row = manifest_row(corpus, seed, story)
    return [row], _clips(story), _recordings(row)


def _clips(story: WorldStory, num_before: int = 0) -> list[tuple[WorldStory, int, int]]:
    return [(story, index, num_before) for index in range(len(story.sounds))]


def _recordings(row: dict, first: int = 0) -> dict[str, range]:
    """Each event's clip, counted from `first`, and the story of all of them."""
    count = len(row["events"])
    single = {event["audio"]: range(first + index, first + index + 1) for index, event in enumerate(row["events"])}
    return {**single, row["audio"]: range(first, first + count)} if row["audio"] else single


def _write_audio(path: Path, clips: list[np.ndarray]) -> None:
    import soundfile

    from audiostory.sound import Waveform, crossfade

    waveforms = [Waveform(samples=samples[None], sample_rate=SAMPLE_RATE) for samples in clips]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, crossfade(waveforms, CROSSFADE_SECONDS).samples[0], SAMPLE_RATE, subtype="PCM_16")


def _part_file(folder: Path, seeds: range) -> Path:
    return folder / "parts" / f"{seeds.start:08d}.jsonl"


def _summary(folder: Path, *, num_written: int) -> Summary:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    heard = {row["world"]["seed"]: row["world"].get("heard_seconds", 0.0) for row in rows}
    return Summary(
        num_rows=len(rows),
        num_written=num_written,
        seconds=sum(event["clip_seconds"] for row in rows for event in row.get("events", ())) + sum(heard.values()),
        num_events=dict(sorted(Counter(len(row["world"]["sounds"]) for row in rows).items())),
    )
