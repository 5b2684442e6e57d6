"""Audio files that a system left, looked at before they are believed: whose folder they lie in, whether they can be
read to their end, how much of them there is. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiostory import sound

ENDINGS = (".wav", ".flac")
MOST_SAMPLES = 1 << 27  # of all channels of one file: 512 MB of memory, 23 minutes of stereo at 48 kHz


def inside(folder: Path, name: Any) -> Path:
    """A file that a system names in its record, which may be anywhere in the story's folder and nowhere else."""
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is no name of a file in {folder}")
    return folder / name


def checked(file: Path) -> tuple[int, float]:
    """Rate and length of a file that can be read to its end. A header may announce anything, hence the bound."""
    import soundfile

    if not file.is_file():
        raise ValueError(f"{file} is missing: the story was not finished; let the system tell it again")
    try:
        announced = soundfile.info(file)
    except (soundfile.SoundFileError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as audio ({error}); replace the file") from error
    if announced.frames * announced.channels > MOST_SAMPLES:
        size = f"{announced.duration:.0f} s of {announced.channels} channels at {announced.samplerate} Hz"
        raise ValueError(f"{file} is too long, {size}; at most {MOST_SAMPLES} samples in all can be scored")
    waveform = sound.read(file)
    return waveform.sample_rate, waveform.seconds
