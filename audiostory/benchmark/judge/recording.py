"""A recording as it is put to a judge: mono, and in 16 bits at 24 kHz where it is sent, whatever the system wrote, so
that no system is judged by its file format. Models that hear take one channel of 16 or 24 kHz anyway."""

from __future__ import annotations

import hashlib
import io
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from audiostory import sound
from audiostory.benchmark.judge.backend import UnsendableError

SAMPLE_RATE = 24_000
LARGEST_MB = 14.0  # in base64 a third more: Gemini takes 20 MB in one request


def as_sent(path: Path) -> bytes:
    """A WAV file. UnsendableError when it cannot be read, or is too long for one request (more than 290 s)."""
    status = path.stat()
    return _as_sent(path, status.st_mtime_ns, status.st_size)


def heard_at(path: Path, sample_rate: int) -> np.ndarray:
    """[samples] mono float32, for a model in this process. UnsendableError when it cannot be read."""
    try:
        waveform = sound.read(path)
    except (ValueError, OSError) as error:
        raise UnsendableError(str(error)) from error
    mono = sound.Waveform(samples=waveform.samples.mean(0, keepdims=True), sample_rate=waveform.sample_rate)
    return sound.resample(mono, sample_rate).samples[0]


def digest(path: Path) -> str:
    """Of the file, and of how it is sent."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@cache  # the file's times stand in for its content within one run
def _digest(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(f"mono {SAMPLE_RATE} Hz 16 bit ".encode() + path.read_bytes()).hexdigest()


@lru_cache(maxsize=16)  # several questions about a story follow each other
def _as_sent(path: Path, changed: int, size: int) -> bytes:
    import soundfile

    samples = heard_at(path, SAMPLE_RATE)
    if (megabytes := 2 * len(samples) / 1e6) > LARGEST_MB:
        raise UnsendableError(
            f"{path} is too long to be sent in one request ({megabytes:.1f} MB, {LARGEST_MB} at most)"
        )
    buffer = io.BytesIO()
    # Clipped as a loudspeaker would, not turned down: the level belongs to what is judged.
    soundfile.write(buffer, np.clip(samples, -1, 1), SAMPLE_RATE, "PCM_16", format="WAV")
    return buffer.getvalue()
