"""Sound as samples: read, resample, trim, cross-fade into one story, write. Needs no torch.

The last step of the walk. `crossfade` joins clips as the release does (SPEC 8) or, where its rules make a seam or a
story of the wrong length, more gently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from audiostory.disk import replacing

_FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """`samples` [channels, samples] float32, full scale at 1; one row of samples alone is taken as mono."""

    samples: np.ndarray
    sample_rate: int

    def __post_init__(self):
        samples = np.atleast_2d(self.samples)
        if samples.ndim != 2 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"a waveform holds floats [channels, samples]; got {samples.dtype} {list(samples.shape)} "
                "(divide integer samples by their full scale first)"
            )
        if self.sample_rate < 1:
            raise ValueError(f"a waveform needs a positive sample rate; got {self.sample_rate}")
        object.__setattr__(self, "samples", samples.astype(np.float32, copy=False))

    @property
    def num_channels(self) -> int:
        return self.samples.shape[0]

    @property
    def num_samples(self) -> int:
        return self.samples.shape[1]

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def read(path: str | Path) -> Waveform:
    """A whole audio file of any format libsndfile knows.

    FileNotFoundError when there is none; ValueError naming the file when it is damaged, cut off (which an Ogg file does
    not tell) or empty.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no audio file at {path}")
    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True).T
            expected, log, sample_rate = file.frames, file.extra_info, file.samplerate
    except (soundfile.SoundFileError, TypeError) as error:  # a TypeError for .raw, which tells no format
        raise ValueError(f"{path} cannot be read as audio ({error}); replace the file") from error
    # The length that an MP3 announces may be an estimate, hence the one per cent.
    if samples.shape[1] < 0.99 * expected or _is_cut(log):
        raise ValueError(f"{path} is cut off: only {samples.shape[1] / sample_rate:.2f} s are left; fetch it again")
    if not samples.size:
        raise ValueError(f"{path} holds no samples; replace the file")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds samples that are not numbers; replace the file")
    return Waveform(samples=np.ascontiguousarray(samples), sample_rate=sample_rate)


def write(path: str | Path, waveform: Waveform) -> None:
    """Writes .wav (float32, so nothing is clipped), .flac (16 bit) or .ogg, making the folder if it is missing.

    The file appears whole or not at all, and the same sound is always the same file. ValueError for another ending and
    for samples that are not finite.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"cannot write {path}: the name should end in {', '.join(_FORMATS)}")
    if not np.isfinite(waveform.samples).all():
        raise ValueError(f"cannot write {path}: the waveform holds samples that are not numbers")
    container, encoding = _FORMATS[path.suffix.lower()]
    with replacing(path) as unfinished:
        soundfile.write(unfinished, waveform.samples.T, waveform.sample_rate, encoding, format=container)
        if encoding == "FLOAT":
            _forget_when(unfinished)


def resample(waveform: Waveform, sample_rate: int) -> Waveform:
    """At another sample rate, ceil(samples * ratio) samples long: librosa's default, soxr_hq (SPEC 8)."""
    if sample_rate < 1:
        raise ValueError(f"a sample rate is a positive number of samples per second; got {sample_rate}")
    if sample_rate == waveform.sample_rate:
        return waveform
    import soxr  # librosa calls just this, but takes seconds to import

    num_samples = -(-waveform.num_samples * sample_rate // waveform.sample_rate)
    resampled = np.zeros((waveform.num_channels, num_samples), dtype=np.float32)
    for row, channel in zip(resampled, waveform.samples, strict=True):
        played = soxr.resample(channel, waveform.sample_rate, sample_rate, quality="HQ")[:num_samples]
        row[: len(played)] = played
    return Waveform(samples=resampled, sample_rate=sample_rate)


def trim(waveform: Waveform, seconds: float) -> Waveform:
    """The first int(seconds * sample_rate) samples, or all if there are fewer (SPEC 8). ValueError below 0."""
    if not seconds >= 0:
        raise ValueError(f"cannot trim to {seconds} seconds; expected 0 or more")
    num_samples = min(waveform.num_samples, int(seconds * waveform.sample_rate))
    return Waveform(samples=waveform.samples[:, :num_samples], sample_rate=waveform.sample_rate)


def crossfade(
    clips: Sequence[Waveform],
    seconds: float,
    shape: Literal["linear", "equal_power"] = "linear",
    strict: bool = True,
) -> Waveform:
    """Clips joined into one, each overlapping the one before by `seconds`.

    `linear` is the release's fade; between independent clips its loudness dips by 3 dB in the middle, which
    `equal_power` avoids. With `strict`, as in the release, a clip (or what is joined so far) shorter than the fade is
    put behind the other without any, which makes a seam and lengthens the story; otherwise the fade is as long as the
    shorter one allows. ValueError for no clips, or clips that differ in sample rate or channels.
    """
    if not clips:
        raise ValueError("there are no clips to join; expected at least one")
    rates, channels = {clip.sample_rate for clip in clips}, {clip.num_channels for clip in clips}
    if len(rates) > 1 or len(channels) > 1:
        raise ValueError(f"clips to join must agree; got sample rates {sorted(rates)} and channels {sorted(channels)}")
    if not seconds >= 0:
        raise ValueError(f"a cross-fade lasts 0 seconds or more; got {seconds}")
    asked = int(seconds * clips[0].sample_rate)
    joined = clips[0].samples
    for clip in clips[1:]:
        shorter = min(joined.shape[1], clip.num_samples)
        overlap = 0 if strict and shorter < asked else min(asked, shorter)
        joined = _join(joined, clip.samples, overlap, shape)
    return Waveform(samples=joined, sample_rate=clips[0].sample_rate)


def _join(before: np.ndarray, after: np.ndarray, overlap: int, shape: str) -> np.ndarray:
    """[channels, A] and [channels, B] -> [channels, A + B - overlap]"""
    keep = before.shape[1] - overlap
    fade_out, fade_in = _fades(overlap, shape)
    mixed = before[:, keep:] * fade_out + after[:, :overlap] * fade_in
    return np.concatenate([before[:, :keep], mixed, after[:, overlap:]], axis=1)


def _fades(overlap: int, shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Gains of the clip that goes and the clip that comes, [overlap] each, from 1 to 0 and from 0 to 1 inclusive."""
    fade_in = np.linspace(0, 1, overlap)
    fade_out = np.linspace(1, 0, overlap)
    if shape == "equal_power":
        fade_in, fade_out = np.sin(fade_in * np.pi / 2), np.sin(fade_out * np.pi / 2)
    elif shape != "linear":
        raise ValueError(f'a cross-fade is "linear" or "equal_power"; got {shape!r}')
    return fade_out.astype(np.float32), fade_in.astype(np.float32)


def _forget_when(path: Path) -> None:
    """The second of its writing stands in the PEAK chunk of a WAV of floats; the same sound should be the same file."""
    with path.open("r+b") as file:
        found = file.read(128).find(b"PEAK")
        if found >= 0:
            file.seek(found + 12)
            file.write(bytes(4))


def _is_cut(log: str) -> bool:
    """Whether libsndfile found fewer bytes in a WAV or AIFF file than announced; it only notes that in its log."""
    found = re.search(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    # Programs that write to a pipe announce the largest possible length: such files are whole.
    return found is not None and int(found[2]) < int(found[1]) < 0x7FFFF000
