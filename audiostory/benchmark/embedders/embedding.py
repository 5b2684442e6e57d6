"""From files to features: `embed(files, embedder, cache_folder)`. Each recording is heard once, ever.

    heard = embed(paths, Vggish.load("weights/vggish-10086976.pth"), Path("runs/features"))
    frechet_distance(heard.vectors(), true.vectors())

A file that cannot be read is left out, named and counted. No torch here: the embedders bring it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark.embedders.cache import Cache, DamagedError
from audiostory.benchmark.embedders.recordings import RESAMPLER, Preparation, prepare
from audiostory.disk import sha256

BATCH_SECONDS = 60.0
NAMED = 5  # of many files in a note


class Embedder(Protocol):
    """A network with its weights. `version` is their digest; `settings` are what else its features depend on."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def preparation(self) -> Preparation: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...

    def __call__(self, clips: Sequence[Float[np.ndarray, W]]) -> list[dict[str, np.ndarray]]:
        """For each clip, as its preparation has it, arrays [vectors, features]; the same in any company."""
        ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """What an embedder made of recordings: name -> {"embedding": [vectors, features], ...}, in the order given.

    `damaged` names the files that could not be read, each with the reason. `notes` are for the report, in words;
    `facts` are all that the figures depend on.
    """

    arrays: Mapping[str, Mapping[str, np.ndarray]]
    damaged: Mapping[str, str]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def vectors(self, kind: str = "embedding") -> Float[np.ndarray, "N D"]:
        """Those of all recordings, one under the other: a long recording may have many."""
        return np.concatenate([arrays[kind] for arrays in self.arrays.values()])

    def rows(self, kind: str = "embedding") -> dict[str, Float[np.ndarray, D]]:
        """One vector per recording, by name: the mean of those that have several."""
        return {name: arrays[kind].mean(0) for name, arrays in self.arrays.items()}


def embed(
    files: Mapping[str, Path] | Sequence[Path],
    embedder: Embedder,
    cache_folder: Path,
    *,
    progress: str = "embedding",
    batch_seconds: float = BATCH_SECONDS,
) -> Features:
    """Features of all files that can be read; what was computed before is read from `cache_folder`.

    Files go by the names given, or else by their own without the ending. What was done stays done: an interrupted run
    goes on where it was. `progress` names the bar; "" for none. ValueError when two files have one name, or none can be
    read.
    """
    named = {k: Path(v) for k, v in files.items()} if isinstance(files, Mapping) else _by_stem(files)
    cache = Cache(folder=cache_folder, facts=facts(embedder))
    contents, damaged = _contents(named)
    found, remade = _held(cache, contents.values())
    waiting = {content: named[name] for name, content in contents.items() if content not in found}
    done = len(named) - len(waiting)
    with tqdm(total=len(named), initial=done, desc=progress, unit="file", disable=not progress) as bar:
        for clips, reasons in _batches(waiting, embedder.preparation, batch_seconds):
            for content, arrays in zip(clips, embedder([*clips.values()]) if clips else [], strict=True):
                cache.write(content, arrays)
                found[content] = arrays
            damaged |= {name: reasons[content] for name, content in contents.items() if content in reasons}
            bar.update(len(clips) + len(reasons))
    if not found:
        why = f"; the first: {next(iter(damaged.values()))}" if damaged else ""
        raise ValueError(f"none of {len(named)} recordings can be embedded by {embedder.name}{why}")
    return Features(
        arrays={name: found[contents[name]] for name in named if name not in damaged},
        damaged=damaged,
        notes=_notes(embedder.name, len(named), damaged, remade),
        facts=cache.facts,
    )


def facts(embedder: Embedder) -> dict[str, Any]:
    """All that features depend on beside the recording; for the report, and for the cache."""
    return {
        "name": embedder.name,
        "weights_sha256": embedder.version,
        "preparation": asdict(embedder.preparation),
        "settings": dict(embedder.settings),
        "resampler": f"{RESAMPLER} {version('soxr')}",
    }


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    twice = [stem for stem, count in Counter(Path(file).stem for file in files).items() if count > 1]
    if twice:
        raise ValueError(f"several files have the name {twice[0]}; give each file with a name of its own, as a mapping")
    return {Path(file).stem: Path(file) for file in files}


def _contents(named: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """The digest of each file, and why others have none, by name."""
    contents, damaged = {}, {}
    for name, path in named.items():
        try:
            contents[name] = sha256(path)
        except OSError as error:
            damaged[name] = f"{path} cannot be read ({error})"
    return contents, damaged


def _held(cache: Cache, contents: Iterable[str]) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """What the cache has, by content, and what is wrong with files of it."""
    found, remade = {}, []
    for content in dict.fromkeys(contents):
        try:
            arrays = cache.read(content)
        except DamagedError as error:
            remade.append(str(error))
        else:
            found |= {content: arrays} if arrays is not None else {}
    return found, remade


def _batches(
    waiting: Mapping[str, Path], preparation: Preparation, batch_seconds: float
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, str]]]:
    """Clips, and why there are none, by content; files of one size together, for they may be of one length."""
    clips: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    most, held = batch_seconds * preparation.sample_rate, 0
    for content, path in sorted(waiting.items(), key=lambda item: (item[1].stat().st_size, item[0])):
        try:
            clip = prepare(sound.read(path), preparation)
        except (OSError, ValueError) as error:
            reasons[content] = str(error)
            continue
        if clips and held + len(clip) > most:
            yield clips, reasons
            clips, reasons, held = {}, {}, 0
        clips[content] = clip
        held += len(clip)
    if clips or reasons:
        yield clips, reasons


def _notes(name: str, num: int, damaged: Mapping[str, str], remade: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if damaged:
        listed = "; ".join([*damaged.values()][:NAMED]) + (" ..." if len(damaged) > NAMED else "")
        notes.append(f"{name}: {len(damaged)} of {num} recordings were left out: {listed}")
    if remade:
        listed = "; ".join(remade[:NAMED]) + (" ..." if len(remade) > NAMED else "")
        notes.append(f"{name}: {len(remade)} stored embeddings were damaged and made anew: {listed}")
    return tuple(notes)
