"""Videos of a few seconds, made here: coloured scenes with a tone each; and a model that describes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 70, 20), (150, 150, 250), (240, 240, 240)  # apart in brightness too
Scene = tuple[tuple[int, int, int], float, float]
"""Colour, tone in Hz (0 is silence), seconds."""


def write(path: Path, scenes: Sequence[Scene], *, moving: bool = True, rate: int = 16000, fps: int = 10) -> Path:
    """With `moving` a white bar travels through each scene, so that nothing is still. 64 x 64 pixels."""
    import av

    with av.open(str(path), "w", format="matroska" if path.suffix == ".mkv" else "mp4") as container:
        video: Any = container.add_stream("mpeg4", rate=fps)
        video.width = video.height = 64
        video.pix_fmt, video.bit_rate = "yuv420p", 1_000_000
        audio: Any = container.add_stream("flac" if path.suffix == ".mkv" else "aac", rate=rate)
        audio.layout = "mono"
        frames = samples = 0
        for colour, tone, seconds in scenes:
            for number in range(round(seconds * fps)):
                pixels = np.full((64, 64, 3), colour, np.uint8)
                if moving:
                    place = 4 * number % 60
                    pixels[:, place : place + 4] = 255
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = frames, Fraction(1, fps)
                container.mux(video.encode(frame))
                frames += 1
            wave = 0.3 * np.sin(2 * np.pi * tone * np.arange(round(seconds * rate)) / rate)
            sound = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, samples, Fraction(1, rate)
            if audio.format.name != "fltp":  # FLAC has whole numbers
                sound = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = rate, samples, Fraction(1, rate)
            container.mux(audio.encode(sound))
            samples += len(wave)
        container.mux([*video.encode(), *audio.encode()])
    return path


def entry(start: float, end: float, sound: str = "a steady tone", **other: str) -> dict[str, Any]:
    return {"start": start, "end": end, "type": "tone", "sound": sound, "visual": "a coloured screen", **other}


class Describer:
    """Answers as it was asked, or with the next of `misdeeds` (texts, or errors to raise). `asked` is what came in."""

    def __init__(self, misdeeds: Sequence[str | Exception] = (), events: Callable[[float], list[dict]] | None = None):
        self.misdeeds, self.asked = list(misdeeds), []
        self.events = events or halves

    def __call__(self, prompt: str, media: Path | None) -> str:
        assert media is None or media.is_file()
        self.asked.append((prompt, media))
        if self.misdeeds:
            if isinstance(deed := self.misdeeds.pop(0), Exception):
                raise deed
            return deed
        return answer(prompt, self.events)


def answer(prompt: str, events: Callable[[float], list[dict]]) -> str:
    """The right form for each of the three prompts."""
    if "main_events" in prompt:
        seconds = float(prompt.split("a clip of ")[1].split()[0])
        return json.dumps({"main_events": events(seconds), "sound_effects": [], "music": []})
    if '"caption"' in prompt:
        return json.dumps({"caption": "A low tone is followed by a high one."})
    num = int(prompt.split("It has ")[1].split()[0])
    points = [{"story": f"It is the turn of tone {number}.", "sounds": "A steady hum."} for number in range(num)]
    return json.dumps({"number_of_points": num, "points": points})


def halves(seconds: float) -> list[dict]:
    middle = round(seconds / 2, 2)
    return [entry(0.0, middle, "a low tone"), entry(middle, round(seconds, 2), "a high tone")]
