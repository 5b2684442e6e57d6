"""Where a video is cut into clips: natural ones into equal pieces, cartoons where their shots end.

`look` decodes a cartoon once and keeps cuts and features, no frames; what is made of them (`scenes`) is arithmetic.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from audiostory.as10k.settings import ShotSettings, VideoSettings
from audiostory.as10k.similarity import Likeness
from audiostory.as10k.videos import pictures

LOOK_SIDE = 256  # what shots are found in; PySceneDetect shrinks to about as much itself
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a video, in seconds from its beginning; `dropped` says why it is no clip."""

    start: float
    end: float
    dropped: str = ""

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a video: where it cuts, and features [N D] of frames at `times` [N]."""

    seconds: float
    cuts: tuple[float, ...]
    times: np.ndarray
    features: np.ndarray


def pieces(seconds: float, settings: ShotSettings) -> list[Span]:
    """A video without shots: whole, or in as few equal pieces as `max_seconds` asks for."""
    return [_checked(span, settings) for span in _equal(0.0, seconds, settings.max_seconds)]


def look(path: Path, seconds: float, settings: ShotSettings, video: VideoSettings, likeness: Likeness) -> Seen:
    """Decodes a video from end to end. Dropped, as `pictures` raises it."""
    from av.video.reformatter import VideoReformatter
    from scenedetect import FrameTimecode
    from scenedetect.common import Timecode
    from scenedetect.detectors import ContentDetector

    detector = ContentDetector(threshold=settings.cut_threshold, min_scene_len=settings.min_shot_seconds)
    shrink, sample = VideoReformatter(), VideoReformatter()  # they keep their tables, which a frame's own does not
    cuts, times, waiting, features = [], [], [], []
    for time, frame in pictures(path, video):
        scale = min(1.0, LOOK_SIDE / max(frame.width, frame.height))
        width, height = max(8, int(frame.width * scale)), max(8, int(frame.height * scale))
        small = shrink.reformat(frame, width=width, height=height, format="bgr24", threads=1).to_ndarray()
        # Shots are timed by the frames' own times: videos from elsewhere have frames of unequal length.
        now = Timecode(pts=round(max(time, 0.0) * 1000), time_base=Fraction(1, 1000))
        found = detector.process_frame(FrameTimecode(now, fps=25.0), small)
        cuts += [cut.seconds for cut in found]
        if time >= len(times) * settings.sample_seconds:
            side = likeness.side
            square = sample.reformat(frame, width=side, height=side, format="rgb24", threads=1)
            waiting.append(square.to_ndarray())
            times.append(time)
        if len(waiting) == BATCH:
            features.append(likeness(np.stack(waiting)))
            waiting = []
    if waiting:
        features.append(likeness(np.stack(waiting)))
    return Seen(
        seconds=seconds,
        cuts=tuple(sorted(cuts)),
        times=np.array(times),
        features=np.concatenate(features) if features else np.zeros((0, 1), np.float32),
    )


def scenes(seen: Seen, settings: ShotSettings) -> list[Span]:
    """Shots, merged where neighbours look alike; those that are too short, nearly still, or seen before are dropped."""
    spans: list[Span] = []
    for start, end in _merged(seen, settings):
        spans += [_checked(span, settings) for span in _equal(start, end, settings.max_seconds)]
    kept: list[np.ndarray] = []
    return [span if span.dropped else _judged(span, seen, settings, kept) for span in spans]


def _merged(seen: Seen, settings: ShotSettings) -> list[tuple[float, float]]:
    """Start and end of runs of shots. A run goes on as long as one of the next shots looks like one that it has: so
    a talk that is shown from two sides stays together. None grows beyond `max_seconds`."""
    bounds = [0.0, *(cut for cut in seen.cuts if 0 < cut < seen.seconds), seen.seconds]
    shots = list(itertools.pairwise(bounds))
    looks = np.stack([_mean(seen, *shot) for shot in shots])
    likeness = looks @ looks.T
    runs, first = [], 0
    while first < len(shots):
        last = first
        while True:
            following = range(last + 1, min(last + 1 + settings.ahead, len(shots)))
            joining = [
                shot
                for shot in following
                if shots[shot][1] - shots[first][0] <= settings.max_seconds
                and likeness[first : last + 1, shot].max() >= settings.alike
            ]
            if not joining:
                break
            last = joining[-1]
        runs.append((shots[first][0], shots[last][1]))
        first = last + 1
    return runs


def _mean(seen: Seen, start: float, end: float) -> np.ndarray:
    """The look of a piece: its frames' mean direction [D], zero where no frame was looked at."""
    total = seen.features[_inside(seen, start, end)].sum(0)
    return total / max(float(np.linalg.norm(total)), 1e-12)


def _inside(seen: Seen, start: float, end: float) -> np.ndarray:
    return (seen.times >= start - 1e-6) & (seen.times < end - 1e-6)


def _judged(span: Span, seen: Seen, settings: ShotSettings, kept: list[np.ndarray]) -> Span:
    """The span with what is wrong with it; the looks of those that are kept are added to `kept`."""
    features = seen.features[_inside(seen, span.start, span.end)]
    if len(features) < 2:
        return Span(start=span.start, end=span.end, dropped="too few frames")
    if float(np.mean(np.sum(features[1:] * features[:-1], axis=1))) >= settings.static:
        return Span(start=span.start, end=span.end, dropped="nearly still")
    mean = _mean(seen, span.start, span.end)
    if any(float(mean @ other) >= settings.repeat for other in kept):
        return Span(start=span.start, end=span.end, dropped="repeats an earlier clip")
    kept.append(mean)
    return span


def _equal(start: float, end: float, longest: float) -> list[Span]:
    num = max(1, math.ceil((end - start) / longest - 1e-9))
    bounds = [start + (end - start) * place / num for place in range(num + 1)]
    # The grid of scripts is a tenth of a second: clips are whole tenths, so that nothing is rounded later.
    return [
        Span(start=round(first, 3), end=round(first + int((last - first) * 10 + 1e-6) / 10, 3))
        for first, last in itertools.pairwise(bounds)
    ]


def _checked(span: Span, settings: ShotSettings) -> Span:
    if span.seconds >= settings.min_seconds - 1e-6:
        return span
    return Span(start=span.start, end=span.end, dropped=f"shorter than {settings.min_seconds:g} s")
