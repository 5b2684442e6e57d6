"""Stories made by hand, and a small corpus of sounds that nobody could confuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiostory import sound
from audiostory.benchmark.items import PITCHLESS, Heard, ToldStory, TrueEvent, TrueStory
from audiostory.story.types import Event, Instruction, Storyline

RATE = 16_000
NAMES = ("bell", "dog", "owl", "rain")
CAPTIONS = {"dog": "a dog barks twice", "rain": "rain comes down", "bell": "a bell rings once", "owl": "an owl hoots"}


def truth(
    id: str,
    names: Sequence[str],
    *,
    place: str = "room",
    total_seconds: float | None = 10.0,
    pitches: dict[str, str] | None = None,
    folder: Path | None = None,
) -> TrueStory:
    """A true story of equally long events; the register of a sound that `pitches` leaves out is that of no pitch."""
    pitches = pitches or {}
    seconds = (total_seconds or 10.0) / len(names)
    planned = (Event(caption=CAPTIONS[name], seconds=seconds, start=k * seconds) for k, name in enumerate(names))
    return TrueStory(
        id=id,
        instruction=Instruction(text=" then ".join(names), total_seconds=total_seconds),
        storyline=Storyline(summary=", ".join(names), events=tuple(planned)),
        events=tuple(
            TrueEvent(
                name=name,
                register=pitches.get(name, PITCHLESS),
                place=place,
                caption=CAPTIONS[name],
                audio=folder / f"{id}-{k}.wav" if folder else None,
            )
            for k, name in enumerate(names)
        ),
    )


def told(id: str, names: Sequence[str], seconds: float = 10.0) -> ToldStory:
    clips = tuple(Path(f"{id}-{k}.wav") for k in range(len(names)))
    return ToldStory(id=id, captions=tuple(CAPTIONS[name] for name in names), clips=clips, seconds=seconds)


def heard(name: str, place: str = "room", register: str = "low") -> Heard:
    """Heard as any of NAMES or something else, by a listener without a doubt."""
    sure = np.array([10.0 * (name == known) for known in NAMES] + [10.0 * (name not in NAMES)])
    return Heard(name=name, place=place, register=register, features=sure, logits=sure)


def beep(hertz: float, seconds: float, echo: bool, seed: int) -> np.ndarray:
    """Pulses of a tone in a little noise; with `echo` they ring."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pulses = np.exp(-(t % 0.4) / (0.3 if echo else 0.03))
    tone = np.sin(2 * np.pi * hertz * rng.uniform(0.97, 1.03) * t)
    return (0.3 * pulses * tone + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def write_manifest(folder: Path, stories: Sequence[Sequence[str]], *, audio: bool = True) -> Path:
    """A manifest of stories given as the names of their events; each name has a pitch of its own."""
    hertz = {"dog": 400.0, "rain": 3000.0, "bell": 1200.0, "owl": 250.0}
    lines = []
    for number, names in enumerate(stories):
        echo, id = number % 2 == 0, f"test-{number:06d}"
        events = []
        for k, name in enumerate(names):
            file = f"audio/{id}/{k}.wav"
            if audio:
                samples = beep(hertz[name], 0.8 + 0.05 * number % 0.3, echo, seed=10 * number + k)
                sound.write(folder / file, sound.Waveform(samples=samples, sample_rate=RATE))
            events.append({"caption": CAPTIONS[name], "start": float(k), "seconds": 1.0, "story_detail": "",
                           "sound_detail": "", "audio": file if audio else None, "clip_seconds": 1.0})  # fmt: skip
        pitches = {name: "low" for name in names if name != "rain"}
        world = {
            "sounds": [{"name": name} for name in names],
            "cast": {"place": "hall" if echo else "room", "pitches": pitches, "seed": 1},
        }
        row = {
            "id": id,
            "instruction": " then ".join(CAPTIONS[name] for name in names),
            "total_seconds": float(len(names)) if number != 1 else None,
            "summary": "sounds",
            "events": events,
            "audio": None,
            "world": world,
        }
        lines.append(json.dumps(row) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "manifest.jsonl"
