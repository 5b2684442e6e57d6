"""Small corpora of hums, and small networks in exported folders, for tests of what reads and encodes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from audiostory import sound
from audiostory.model import tiny

SAMPLE_RATE = 16000


def write(folder: Path, events: Sequence[int], *, heard: bool = False) -> Path:
    """A manifest with a row per entry, of so many events; a row of none asks about a recording. Returns its path.

    With `heard` each story follows a recording, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, num_events in enumerate(events):
        row = {"id": f"row-{number}", "instruction": f"{num_events} hums please, number {number}"}
        if heard or not num_events:
            _hum(folder / f"heard-{number}.wav", 0.5 + 0.3 * (number % 4), 150 + number)
            row["heard"] = f"heard-{number}.wav"
        if num_events:
            lines.append(row | {"summary": "hums", "events": _events(folder, number, num_events)})
        else:
            lines.append(row | {"answer": "It hums." * (1 + number % 5)})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def export(folder: Path) -> Path:
    """Codec, text encoder and audio encoder, each in its folder, as a stage exports them."""
    from audiostory.model.listener import AudioEncoder, AudioEncoderConfig

    tiny.codec().save_pretrained(folder / "codec")
    (folder / "text_encoder").mkdir(parents=True, exist_ok=True)
    tiny.text_encoder().save_pretrained(folder / "text_encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = AudioEncoderConfig(window_seconds=1, num_mels=20, width=16, layers=1, heads=2, intermediate=32)
        AudioEncoder.random(sizes).save_pretrained(folder / "audio_encoder")
    return folder


def _events(folder: Path, number: int, num_events: int) -> list[dict]:
    events, start = [], 0.0
    for event in range(num_events):
        seconds = round(0.4 + 0.2 * ((number + event) % 4), 1)
        _hum(folder / f"{number}-{event}.wav", seconds, 200 * (1 + (number + event) % 7))
        caption = f"hum number {(number + event) % 9}"
        events.append({"caption": caption, "start": start, "seconds": seconds, "audio": f"{number}-{event}.wav"})
        start = round(start + seconds, 1)
    return events


def _hum(path: Path, seconds: float, pitch: float) -> None:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * pitch * time)
    sound.write(path, sound.Waveform(samples=samples, sample_rate=SAMPLE_RATE))
