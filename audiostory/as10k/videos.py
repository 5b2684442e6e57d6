"""Reads videos that come from anywhere: finds them in a folder, tells what they are, decodes them frame by frame.

A file is opened by itself and read through its descriptor: no link is followed, and of the formats only containers are
allowed, never a playlist that names other files. What is decoded is bounded by `VideoSettings`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiostory.as10k.ledger import Dropped, PassedOver
from audiostory.as10k.settings import VideoSettings
from audiostory.disk import replacing, sha256
from audiostory.sound import Waveform, resample

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,live_flv,ogg"
MAX_FRAMES_PER_SECOND = 240  # files that claim more are refused, so that a short one cannot be decoded for days
MAX_SOUND_RATE = 192000
SEEK_SECONDS = 2.0  # decoders need a little sound from before the place that is wanted


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file in a folder of videos. `name` is its path there; size and time tell whether it has changed."""

    domain: str
    name: str
    size: int
    changed: int

    @property
    def key(self) -> str:
        return f"{self.domain}/{self.name}"

    @property
    def clip_prefix(self) -> str:
        """What the ids of its clips begin with: safe as a file's name, whatever the video is called."""
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(self.name).stem)
        mark = hashlib.sha256(os.fsencode(self.key)).hexdigest()[:8]
        return f"{self.domain}-{plain[:32].strip('-') or 'video'}-{mark}"


def find(folder: Path, domain: str, settings: VideoSettings) -> tuple[list[Source], list[tuple[str, str]]]:
    """The videos under a folder in the order of their names, and what was left out: (name, reason).

    Links are left out, wherever they lead. ValueError for a folder that is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder of videos at {folder}")
    sources: list[Source] = []
    left_out: list[tuple[str, str]] = []

    def unread(error: OSError) -> None:
        left_out.append((Path(error.filename).relative_to(folder).as_posix(), "cannot be read now"))

    for where, folders, files in os.walk(folder, onerror=unread):
        folders.sort()
        for name in sorted([*files, *(entry for entry in folders if (Path(where) / entry).is_symlink())]):
            path = Path(where) / name
            relative, facts = path.relative_to(folder).as_posix(), path.lstat()
            if stat.S_ISLNK(facts.st_mode):
                left_out.append((relative, "a link; put the file itself there"))
            elif not stat.S_ISREG(facts.st_mode):
                left_out.append((relative, "no plain file"))
            elif path.suffix.lower() not in settings.suffixes:
                left_out.append((relative, "no video by its name"))
            elif facts.st_size > settings.max_bytes:
                left_out.append((relative, f"larger than {settings.max_bytes} bytes"))
            else:
                source = Source(domain=domain, name=relative, size=facts.st_size, changed=facts.st_mtime_ns)
                sources.append(source)
    return sources, left_out


def probe(path: Path, settings: VideoSettings) -> dict[str, Any]:
    """What a video is: seconds, size of its picture, its streams, and the SHA-256 of the file.

    Dropped for a file that is damaged, has no picture or no sound, or is beyond the limits; PassedOver, as by all that
    reads videos here, for one that cannot be read now.
    """
    with opened(path, settings) as container:
        video, audio = streams(container)
        facts = {
            "seconds": round(_seconds(container), 3),
            "width": video.width,
            "height": video.height,
            "frame_rate": round(float(video.average_rate or 0), 3),
            "sample_rate": audio.rate,
            "channels": audio.channels,
            "codecs": [video.codec_context.name, audio.codec_context.name],
        }
        if facts["seconds"] > settings.max_seconds:
            raise Dropped(f"longer than {settings.max_seconds:g} s", f"{facts['seconds']} s")
        if not 0 < facts["width"] * facts["height"] <= settings.max_pixels:
            raise Dropped(f"more than {settings.max_pixels} pixels", f"{facts['width']} x {facts['height']}")
        if not 0 < facts["sample_rate"] <= MAX_SOUND_RATE:
            raise Dropped(f"sound of more than {MAX_SOUND_RATE} Hz", f"{facts['sample_rate']} Hz")
        for stream in (video, audio):
            if next(container.decode(stream), None) is None:
                raise Dropped("damaged", f"no frame of its {stream.type} can be decoded")
        return {**facts, "sha256": sha256(path)}


def pictures(
    path: Path, settings: VideoSettings, *, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """The frames of a video with their times in seconds from its beginning, one after the other."""
    with opened(path, settings) as container:
        stream, _ = streams(container)
        begins = _begins(container)
        _seek(container, start)
        limit = MAX_FRAMES_PER_SECOND * (min(end or settings.max_seconds, settings.max_seconds) + 60)
        for number, frame in enumerate(container.decode(stream)):
            time = _time(frame) - begins
            if end is not None and time >= end:
                return
            if number > limit or time > settings.max_seconds + 60:
                raise Dropped("damaged", f"it holds more frames than {MAX_FRAMES_PER_SECOND} a second")
            if time >= start - 1e-6:
                yield time, frame


def sound(path: Path, settings: VideoSettings, *, start: float, seconds: float, rate: int, channels: int) -> Waveform:
    """A piece of a video's sound. Each frame is laid where its time says, so that gaps stay gaps.

    Dropped where more than a tenth of the piece has no sound at all.
    """
    import av

    with opened(path, settings) as container:
        _, stream = streams(container)
        begins, own_rate = _begins(container), stream.rate
        if not 0 < own_rate <= MAX_SOUND_RATE:
            raise Dropped(f"sound of more than {MAX_SOUND_RATE} Hz", f"{own_rate} Hz")
        canvas = np.zeros((channels, round(seconds * own_rate)), dtype=np.float32)
        mix = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=own_rate)
        covered = 0
        _seek(container, start)
        for frame in container.decode(stream):
            place = round((_time(frame) - begins - start) * own_rate)
            if place >= canvas.shape[1]:
                break
            for mixed in mix.resample(frame):
                samples = mixed.to_ndarray()
                first, last = max(place, 0), min(place + samples.shape[1], canvas.shape[1])
                if first < last:
                    canvas[:, first:last] = samples[:, first - place : last - place]
                    covered += last - first
                place += samples.shape[1]
    if covered < 0.9 * canvas.shape[1]:
        raise Dropped("its sound has holes or ends early", f"{covered / own_rate:.2f} of {seconds:.2f} s")
    if not np.isfinite(canvas).all():
        raise Dropped("damaged", "its sound holds samples that are not numbers")
    return resample(Waveform(samples=canvas, sample_rate=own_rate), rate)


def write_clip(
    path: Path,
    to: Path,
    settings: VideoSettings,
    *,
    start: float,
    seconds: float,
    sound: Waveform,
    side: int,
    frame_rate: int,
) -> None:
    """Writes a piece of a video anew, small, with the `sound` that is given: to be looked at, not to be kept.

    The file appears whole or not at all. Dropped where pictures are lacking for more than a tenth of the piece.
    """
    import av
    from av.video.reformatter import VideoReformatter

    try:
        with replacing(to) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            video: Any = container.add_stream(codec, rate=frame_rate)
            audio: Any = container.add_stream("aac", rate=sound.sample_rate)
            audio.layout = "mono" if sound.num_channels == 1 else "stereo"
            video.pix_fmt = "yuv420p"
            wanted, number = round(seconds * frame_rate), 0
            frame: Any = None
            shrink = VideoReformatter()
            for time, shown in pictures(path, settings, start=start, end=start + seconds):
                until = min(wanted, int((time - start) * frame_rate) + 1)
                if until <= number:
                    continue
                if frame is None:
                    video.width, video.height = _fitting(shown.width, shown.height, side)
                frame = shrink.reformat(shown, width=video.width, height=video.height, format="yuv420p", threads=1)
                number = _encode(container, video, frame, range(number, until), frame_rate)
            if frame is None or number < 0.9 * wanted - 1:
                raise Dropped("its picture ends early", f"{number / frame_rate:.2f} of {seconds:.2f} s")
            _encode(container, video, frame, range(number, wanted), frame_rate)
            layout = "mono" if sound.num_channels == 1 else "stereo"
            samples = av.AudioFrame.from_ndarray(sound.samples, format="fltp", layout=layout)
            samples.sample_rate, samples.pts, samples.time_base = sound.sample_rate, 0, Fraction(1, sound.sample_rate)
            container.mux(audio.encode(samples))
            container.mux([*video.encode(), *audio.encode()])
    except av.FFmpegError as error:
        raise OSError(f"cannot write {to}: {error}") from error


def stills(path: Path, settings: VideoSettings, *, every: float) -> list[tuple[float, bytes]]:
    """A picture each so many seconds, with its time, as JPEG: for models that are shown pictures and no video."""
    import av

    taken: list[tuple[float, bytes]] = []
    for time, frame in pictures(path, settings):
        if time >= len(taken) * every - 1e-6:
            encoder: Any = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj420p"
            encoder.time_base = Fraction(1, 25)
            picture = frame.reformat(format="yuvj420p")
            picture.pts = 0
            packets = [*encoder.encode(picture), *encoder.encode()]
            taken.append((time, b"".join(bytes(packet) for packet in packets)))
    return taken


def _encode(container: Any, stream: Any, frame: Any, numbers: range, frame_rate: int) -> int:
    """The same picture at each of these places; the number of the next one."""
    for number in numbers:
        frame.pts, frame.time_base = number, Fraction(1, frame_rate)
        container.mux(stream.encode(frame))
    return numbers.stop


@contextmanager
def opened(path: Path, settings: VideoSettings) -> Iterator[InputContainer]:
    """An open video. Whatever the library finds wrong with the file while it is open drops it as damaged; what the
    system finds wrong, opening or reading it, passes it over."""
    import av

    try:
        # Neither a link that was put there since nor a pipe that never ends is opened.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise _cannot_be_read(error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Dropped("no plain file")
    with os.fdopen(descriptor, "rb") as file:
        limits = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            with av.open(file, mode="r", container_options=limits, metadata_errors="replace") as container:
                for stream in container.streams.video:
                    stream.codec_context.options = {"max_pixels": str(settings.max_pixels)}
                yield container
        except (av.FFmpegError, OverflowError, MemoryError) as error:
            raise Dropped("damaged", f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}") from error
        except OSError as error:  # of reading; those of the library's own, which stand above, are damage
            raise _cannot_be_read(error) from error


def _cannot_be_read(error: OSError) -> PassedOver:
    return PassedOver("cannot be read now", error.strerror or str(error))


def streams(container: InputContainer) -> tuple[Any, Any]:
    """The first stream of pictures and the first of sound. Covers, which are single pictures, do not count."""
    from av.stream import Disposition

    video = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not video:
        raise Dropped("no picture")
    if not container.streams.audio:
        raise Dropped("no sound")
    return video[0], container.streams.audio[0]


def _seconds(container: InputContainer) -> float:
    if container.duration is None or container.duration <= 0:
        raise Dropped("does not tell how long it is")
    return container.duration / 1_000_000


def _time(frame: Any) -> float:
    if frame.time is None:
        raise Dropped("damaged", "a frame does not tell its time")
    return frame.time


def _begins(container: InputContainer) -> float:
    return (container.start_time or 0) / 1_000_000


def _seek(container: InputContainer, start: float) -> None:
    """To somewhere before `start`; what is decoded before that is thrown away."""
    if start > SEEK_SECONDS:
        container.seek((container.start_time or 0) + int((start - SEEK_SECONDS) * 1_000_000), backward=True)


def _fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """Even numbers, as codecs want them, the longer one at most `side`."""
    scale = min(1.0, side / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)
