"""What one comparison is made of, as `configs/benchmark.yaml` and the command line say. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audiostory import composing

CONTROLS = ("truth", "codec", "silence", "guess", "shuffled")  # columns that stand beside the systems, of any suite


@dataclass(frozen=True, kw_only=True)
class SoundWorld:
    """Stories of the sound world, whose truth is known. The manifests are written if they are not there."""

    name: str
    kind: Literal["soundworld"]
    tasks: tuple[str, ...]  # stories, continuations, questions
    num: int  # of each: stories, continuations, recordings with all their questions
    stories: str
    continuations: str
    questions: str
    continuations_train: str | None  # of these and the next the column "guess" is made
    questions_train: str | None
    ear: str | None  # null: the bundled one
    codec: str | None  # of the column "codec"; null: the bundled model's
    controls: tuple[str, ...]  # the columns beside the systems, where they apply
    pages: int  # stories on the page that is listened to; 0: no page


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Items with reference recordings, as AudioStory-10k or AudioCaps, scored by published networks."""

    name: str
    kind: Literal["recordings"]
    items: str
    num: int | None  # null: all
    metrics: tuple[str, ...]
    weights: Mapping[str, str | None]  # where the networks lie, by metric
    fade_seconds: float  # from the beginning of an event on, joins are looked at for so long
    controls: tuple[str, ...]
    table: int  # of the paper, whose rows stand beside
    pages: int


@dataclass(frozen=True, kw_only=True)
class Teller:
    """A system that tells here. Which of the settings a kind needs, `tellers.py` says."""

    kind: Literal["ours", "whole_caption", "cascade", "true_captions"]
    model_path: str | None = None  # null: the bundled audiostory-mini
    true_storyline: bool = False
    text_to_audio: str | None = None
    codec: str | None = None
    steps: int | None = None  # null: the model's own, as are guidance and solver
    guidance: float | None = None
    solver: str | None = None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A system that told somewhere else: its folder, as `benchmark/recorded.py` describes it."""

    kind: Literal["folder"]
    folder: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    suite: SoundWorld | Recordings
    systems: Mapping[str, Teller | Folder]
    output: str
    seed: int
    device: str | None


@dataclass(frozen=True, kw_only=True)
class _Settings:
    suite: Mapping[str, Any]
    output: str
    systems: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str | None = None  # null: cuda where there is one; under torchrun each process its own


def compose(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """`folder`/benchmark.yaml with the command line's overrides, as plain data. ValueError for what is misspelt."""
    return composing.compose(folder, "benchmark", _Settings, overrides)


def build(composed: Mapping[str, Any]) -> Benchmark:
    """ValueError naming the setting that is wrong."""
    settings = composing.build(_Settings, composed)
    kinds = {"soundworld": SoundWorld, "recordings": Recordings}
    suite = composing.build(_kind(kinds, settings.suite, "suite"), settings.suite, "suite")
    if suite.num is not None and suite.num < 2:
        raise ValueError(f"suite.num must be at least 2, for chance takes another's truth; got {suite.num}")
    if suite.pages < 0:
        raise ValueError(f"suite.pages is a number of stories, and 0 for no page; got {suite.pages}")
    return Benchmark(
        suite=suite,
        systems={name: _system(name, chosen) for name, chosen in settings.systems.items()},
        output=settings.output,
        seed=settings.seed,
        device=settings.device,
    )


def _system(name: str, chosen: Any) -> Teller | Folder:
    where = f"systems.{name}"
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"{where}: a system's name becomes a folder's; use letters, digits, - and _")
    if name in CONTROLS:
        raise ValueError(f"{where}: {name} is the name of a control, which has a column too; give the system another")
    kinds = dict.fromkeys(("ours", "whole_caption", "cascade", "true_captions"), Teller) | {"folder": Folder}
    return composing.build(_kind(kinds, chosen, where), chosen, where)


def _kind(kinds: Mapping[str, type], chosen: Any, where: str) -> type:
    kind = chosen.get("kind") if isinstance(chosen, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where}.kind must be {' or '.join(kinds)}, not {kind!r}")
    return kinds[kind]
