"""Clips on disk: cut out of a video for the annotator, then cut into a story's events for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiostory import sound
from audiostory.as10k import videos
from audiostory.as10k.ledger import Dropped
from audiostory.as10k.rows import clip_seconds, opening_events
from audiostory.as10k.settings import ClipSettings, RowSettings, VideoSettings
from audiostory.as10k.shots import Span
from audiostory.disk import replacing
from audiostory.sound import Waveform
from audiostory.story import Storyline

PICTURE_SOUND_RATE = 32000  # of the small video's sound: one that every AAC encoder takes


def cut(
    video: Path, span: Span, folder: Path, name: str, clip: ClipSettings, limits: VideoSettings
) -> tuple[Path, Path]:
    """Writes `name`.flac (or .wav) and `name`.mp4 into a folder. Dropped for silence and for what cannot be decoded."""
    length = round(span.seconds, 6)
    heard = videos.sound(video, limits, start=span.start, seconds=length, rate=clip.sample_rate, channels=clip.channels)
    if float(np.abs(heard.samples).max(initial=0.0)) < clip.silence:
        raise Dropped("silent")
    audio, picture = folder / f"{name}.{clip.audio}", folder / f"{name}.mp4"
    # Decoders and resamplers overshoot full scale a little, which a file of whole numbers would wrap or cut.
    heard = Waveform(samples=np.clip(heard.samples, -1, 1), sample_rate=clip.sample_rate)
    videos.write_clip(
        video,
        picture,
        limits,
        start=span.start,
        seconds=length,
        sound=sound.resample(heard, PICTURE_SOUND_RATE),
        side=clip.side,
        frame_rate=clip.frame_rate,
    )
    sound.write(audio, heard)
    return audio, picture


def cut_events(
    story: Path, picture: Path | None, storyline: Storyline, folder: Path, settings: RowSettings, *, opening: bool
) -> dict[str, Path]:
    """A story's recordings in a folder of its own: the whole, each event with its fade, and what `rows.make` asks for.

    Without a possible opening there is neither that nor the rest. Files appear whole or not at all; the names are
    those of `rows.make`.
    """
    whole = sound.read(story)
    total = round(storyline.total_seconds, 6)
    pieces: list[tuple[str, float, float]] = [("story", 0.0, total)]
    pieces += [
        (str(number), event.start, event.start + clip_seconds(event, total, settings))
        for number, event in enumerate(storyline.events)
    ]
    if opening:
        pieces += _opening_and_rest(storyline, settings)
    files = {}
    for name, start, end in pieces:
        files[name] = folder / f"{name}{story.suffix}"
        first, last = (round(place * whole.sample_rate) for place in (start, end))
        sound.write(files[name], Waveform(samples=whole.samples[:, first:last], sample_rate=whole.sample_rate))
    if picture is not None:
        files["video"] = folder / "video.mp4"
        _copy(picture, files["video"])
    return files


def _opening_and_rest(storyline: Storyline, settings: RowSettings) -> Sequence[tuple[str, float, float]]:
    try:
        begins = storyline.events[opening_events(storyline, settings)].start
    except Dropped:
        return []
    return [("opening", 0.0, begins), ("rest", begins, round(storyline.total_seconds, 6))]


def _copy(file: Path, to: Path) -> None:
    with replacing(to) as unfinished:
        unfinished.write_bytes(file.read_bytes())
