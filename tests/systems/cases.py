"""Tiny networks in folders, stories to ask for, and a text-to-audio model that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline
from audiostory.sound import Waveform
from audiostory.story import Event, Instruction, Storyline
from audiostory.systems.asked import Asked
from audiostory.weights.ours import Settings

RATE = 800  # of the tiny waveform codec


def asked(id: str, *seconds: float, total: float | None = None, text: str = "sounds") -> Asked:
    """A story whose true events last these seconds."""
    events = [
        Event(caption=f"sound {index} of {id}", seconds=length, start=sum(seconds[:index]))
        for index, length in enumerate(seconds)
    ]
    return Asked(
        id=id,
        instruction=Instruction(text=text, total_seconds=total),
        caption=f"all of {id}",
        storyline=Storyline(summary="Sounds.", events=tuple(events)),
    )


def write_model(folder: Path, *, listens: bool = False) -> Path:
    parts: dict[str, Any] = {}
    if listens:
        parts = {"audio_encoder": tiny.audio_encoder(), "listener_projector": tiny.listener_projector()}
    networks = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    settings = Settings(steps=1, guidance=2.0, crossfade_seconds=0.25)
    AudioStoryPipeline(*networks, settings, **parts).save_pretrained(folder)
    return folder


def write_text_to_audio(folder: Path, seed: int = 0) -> Path:
    """What stage tangoflux exports, and the codec beside it."""
    tiny.dit(seed).save_pretrained(folder / "dit")
    tiny.text_encoder(seed).save_pretrained(folder / "text_encoder")
    tiny.codec(front="waveform").save_pretrained(folder / "codec")
    return folder


class Noises:
    """Text to audio by the seed alone: clips of at most 4 seconds. It notes what it was asked for."""

    steps, guidance, longest_seconds = 2, 1.0, 4.0

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"text_to_audio": "noises", "steps": 2, "guidance": 1.0}
        self.heard: list[tuple[list[str], list[float], list[int]]] = []

    def sounds(self, captions: Sequence[str], seconds: Sequence[float], seeds: Sequence[int]) -> list[Waveform]:
        self.heard.append((list(captions), list(seconds), list(seeds)))
        assert max(seconds) <= self.longest_seconds
        return [
            Waveform(samples=np.random.default_rng(seed).standard_normal((1, round(length * RATE))), sample_rate=RATE)
            for length, seed in zip(seconds, seeds, strict=True)
        ]
