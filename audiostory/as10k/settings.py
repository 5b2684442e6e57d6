"""All that can be chosen, one dataclass per step, so that a step is redone when its own settings change and only then.

Lengths are seconds. Where the paper gives no number, docs/AS10K.md says where ours come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

STEPS = ("videos", "shots", "clips", "events", "stories", "rows")
DOMAINS = ("natural", "cartoon")
VARIANTS = ("text", "continuation", "dubbing")


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """What a file may be. Larger ones are dropped before anything of them is decoded."""

    max_bytes: int = 8 << 30
    max_seconds: float = 3 * 3600.0
    max_pixels: int = 4096 * 2304
    suffixes: tuple[str, ...] = (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".flv",
        ".ogv",
    )


@dataclass(frozen=True, kw_only=True)
class ShotSettings:
    """How a video becomes clips of `min_seconds` to `max_seconds`.

    With `find_shots` (cartoons), shots are found, neighbours that look alike are merged, and clips in which little
    moves or that repeat an earlier one are dropped; `alike`, `static` and `repeat` are cosines between frames. Without,
    a video that is too long is cut into equal pieces.
    """

    find_shots: bool
    min_seconds: float
    max_seconds: float
    cut_threshold: float = 27.0  # PySceneDetect's own
    min_shot_seconds: float = 0.6
    sample_seconds: float = 0.5  # how often a frame is looked at
    alike: float = 0.8
    ahead: int = 2  # how many of the next shots are asked whether they belong to those before
    static: float = 0.998
    repeat: float = 0.98

    def __post_init__(self):
        if not 0 < self.min_seconds <= self.max_seconds < math.inf:
            raise ValueError(
                "clips last from a positive min_seconds to a max_seconds that is no less; "
                f"got {self.min_seconds} and {self.max_seconds}"
            )
        for name in ("min_shot_seconds", "sample_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds; got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How clips are written. A clip whose loudest sample is below `silence` is dropped.

    The picture is for the annotator and for dubbing, which look at few and small frames.
    """

    sample_rate: int = 32000
    channels: int = 1
    audio: str = "flac"
    silence: float = 0.003  # -50 dB of full scale
    side: int = 448  # of the picture's longer side, in pixels
    frame_rate: int = 8

    def __post_init__(self):
        if not 8000 <= self.sample_rate <= 192000 or self.channels not in (1, 2) or self.audio not in ("flac", "wav"):
            raise ValueError(
                "clips have 8000 to 192000 samples a second in 1 or 2 channels, as flac or wav; "
                f"got {self.sample_rate}, {self.channels} and {self.audio!r}"
            )
        if not (16 <= self.side <= 4096 and 1 <= self.frame_rate <= 60):
            raise ValueError(
                f"pictures have 16 to 4096 pixels a side, 1 to 60 a second; got {self.side} and {self.frame_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """Which annotations are kept, and how their events are laid out (`tiling.tile`)."""

    min_events: int = 2
    max_items: int = 64
    min_event_seconds: float = 1.0
    max_event_seconds: float = 27.0  # the released DiT's 30 s, less its cross-fade of 3 s

    def __post_init__(self):
        if not (self.min_events >= 1 and self.min_event_seconds >= 0.1 and self.max_event_seconds < math.inf):
            raise ValueError(
                "min_events must be at least 1 and events last 0.1 s or more; "
                f"got {self.min_events}, and {self.min_event_seconds} to {self.max_event_seconds} s"
            )
        if self.max_event_seconds < 2 * self.min_event_seconds + 0.1:
            raise ValueError(
                "max_event_seconds must be more than twice min_event_seconds, so that a long event can be split; "
                f"got {self.max_event_seconds} and {self.min_event_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class StorySettings:
    """The paper's limits, in words."""

    caption_words: int = 20
    point_words: int = 15


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """How stories become rows. `fade_seconds` is what an event's recording has beyond the event's end."""

    variants: tuple[str, ...] = VARIANTS
    seed: int = 0
    test_share: float = 0.15
    fade_seconds: float = 3.0
    opening_seconds: float = 3.0  # what is heard of a story before it is gone on with lasts at least so long

    def __post_init__(self):
        if not self.variants or set(self.variants) - set(VARIANTS):
            raise ValueError(f"variants are any of {', '.join(VARIANTS)}; got {', '.join(self.variants) or 'none'}")
        if not 0 <= self.test_share <= 1:
            raise ValueError(f"test_share is a share of the videos, 0 to 1; got {self.test_share}")
        if not (0 <= self.fade_seconds < math.inf and 0 <= self.opening_seconds < math.inf):
            raise ValueError(
                f"fade_seconds and opening_seconds are 0 or more; got {self.fade_seconds} and {self.opening_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything. `natural` keeps what lasts 30 s or more (paper); cartoons are shorter: see docs/AS10K.md."""

    video: VideoSettings = VideoSettings()
    natural: ShotSettings = ShotSettings(find_shots=False, min_seconds=30.0, max_seconds=60.0)
    cartoon: ShotSettings = ShotSettings(find_shots=True, min_seconds=8.0, max_seconds=60.0)
    clip: ClipSettings = ClipSettings()
    event: EventSettings = EventSettings()
    story: StorySettings = StorySettings()
    row: RowSettings = RowSettings()

    def shots(self, domain: str) -> ShotSettings:
        return self.natural if domain == "natural" else self.cartoon


def changed(settings: Settings, changes: Mapping[str, str]) -> Settings:
    """Settings with values from a command line, such as {"cartoon.min_seconds": "5"}. ValueError for names it lacks."""
    groups: dict[str, dict[str, Any]] = {}
    for path, text in changes.items():
        group, _, name = path.partition(".")
        held = getattr(settings, group, None) if group in {item.name for item in fields(settings)} else None
        if held is None or name not in {item.name for item in fields(held)}:
            known = ", ".join(f"{item.name}.*" for item in fields(settings))
            raise ValueError(f"there is no setting {path!r}; there are {known} (see audiostory/as10k/settings.py)")
        groups.setdefault(group, {})[name] = _parsed(path, text, getattr(held, name))
    return replace(settings, **{group: replace(getattr(settings, group), **values) for group, values in groups.items()})


def _parsed(path: str, text: str, held: Any) -> Any:
    """`text` as the type of the value that is held."""
    if isinstance(held, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(held, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{path} is true or false; got {text!r}")
        return text == "true"
    try:
        return type(held)(text)
    except ValueError as error:
        raise ValueError(f"{path} is a {type(held).__name__}; got {text!r}") from error
