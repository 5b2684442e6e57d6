"""Writes what is computed of a corpus once, shard by shard: into a store beside its manifest, or into tar files.

Shards are independent: any process may make any of them, and whoever makes the last one writes the index. What is
there, whole and of the same things is kept: a run that was stopped goes on. `scripts/encode_latents.py` runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tokenizers import Tokenizer
from torch import Tensor

from audiostory.dataset import manifest, shards, store
from audiostory.dataset.manifest import DAMAGED_SHARE, Damage, Row
from audiostory.dataset.parts import ClipFeatures, Features, Latents, Network, Part, Teacher, digest
from audiostory.dataset.rows import words
from audiostory.dataset.shards import Sample, ShardIndex

NETWORKS = ("codec", "text_encoder", "audio_encoder", "clip_encoder")
COMPONENTS = {"clip_encoder": "audio_encoder"}  # what a network is called in a folder, where it has another name there
ROWS_PER_SHARD = 512  # of tar files
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be made of a manifest. `networks` are folders by name: of exports that hold them, or their own.

    `tokenizer` is the folder of the planner's, which counts the texts of tar files.
    """

    manifest: Path
    output: Path
    networks: Mapping[str, Path]
    format: Literal["store", "shards"] = "store"
    num_tokens: int = 16
    num_listening: int = 20
    num_frames: int | None = None
    tokenizer: Path | None = None
    rows_per_shard: int = ROWS_PER_SHARD
    damaged_share: float = DAMAGED_SHARE

    def part(self, name: str, read: Read, index: Mapping[str, Any]) -> Part:
        """One of NETWORKS' parts: with the network that is given, else as the index tells that it was made."""
        folder = self.networks.get(name)
        if folder is None:
            network, settings = Network(name, index[name], None), index
        else:
            component = COMPONENTS.get(name, name)
            own = folder / component if (folder / component).is_dir() else folder
            network, settings = Network(name, store.fingerprint(own), lambda: read(folder, component)), vars(self)
        if name == "codec":
            return Latents(network, settings.get("num_frames"))
        if name == "text_encoder":
            return Teacher(network, settings["num_tokens"])
        if name == "clip_encoder":
            return ClipFeatures(network, settings["num_tokens" if folder else "num_clip_tokens"])
        return Features(network, settings["num_listening"])


Read = Callable[[Path, str], Any]
"""Reads the network of that name from a folder, onto its device."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to make: of which kind, in which file, from which items."""

    kind: str
    unit: str
    path: Path
    items: Sequence[Any]


class Work(Protocol):
    """All shards of a corpus. Each may be made by any process; the last one finishes."""

    jobs: list[Job]

    def make(self, job: Job, told: Callable[[int], object]) -> None:
        """Makes a shard unless it is there, whole and of the same things. `told` hears of every so many items done.

        ValueError when too much of what this process has seen cannot be read.
        """
        ...

    def finish(self) -> int:
        """Writes the index once every shard has been made; the number of those that have not.

        Whoever makes the last one writes it, if need be in another run.
        """
        ...


def open_work(wanted: Wanted, read: Read) -> Work:
    """ValueError when there is something in the output that would not fit what is to be made."""
    return (StoreWork if wanted.format == "store" else ShardsWork)(wanted, read)


class StoreWork:
    """A store: shards of latents, of teacher states and of features, each kind by itself (`dataset.store`)."""

    def __init__(self, wanted: Wanted, read: Read):
        self.rows = manifest.read(wanted.manifest, damaged_share=wanted.damaged_share)
        self.folder: Path = wanted.output
        self.folder.mkdir(parents=True, exist_ok=True)
        index, self.share = store.read_index(self.folder), wanted.damaged_share
        if index.get("kind") is not None:
            raise ValueError(f"{self.folder} holds {index['kind']}, no store; give another --output")
        given = [name for name in NETWORKS if name in wanted.networks]
        stale = [name for name in NETWORKS if name in index and name not in given]
        if stale and index["manifest"] != self.rows.fingerprint:
            raise ValueError(
                f"{self.rows.path} has changed since {self.folder} was made, so its part of the {stale[0]} must be "
                f"made anew too; give --{stale[0]} as well"
            )
        self.parts = {part.kind: part for part in (wanted.part(name, read, index) for name in given)}
        self.damage = {kind: Damage(self.rows.path, share=self.share) for kind in self.parts}
        self.jobs = [job for part in self.parts.values() for job in self._jobs_of(part)]

    def make(self, job: Job, told: Callable[[int], object]) -> None:
        part, damage = self.parts[job.kind], self.damage[job.kind]
        of = part.of(job.items)
        if store.is_whole(job.path, of):
            told(len(job.items))
            return
        tensors = dict(part.tensors(job.items, damage, told))
        damage.check(self._num_items(job.kind))
        store.write_shard(job.path, tensors, of)

    def finish(self) -> int:
        missing = sum(not _is_made(job.path, self.parts[job.kind].of(job.items)) for job in self.jobs)
        if missing:
            return missing
        index = store.read_index(self.folder)
        told = index.pop("shards", {})
        for kind, part in self.parts.items():
            made = [job.path for job in self.jobs if job.kind == kind]
            for path in set(self.folder.glob(f"{kind}-*.safetensors")) - set(made):  # of an earlier, longer manifest
                path.unlink()
            num_items, num_made = self._num_items(kind), sum(len(store.read_header(path).shapes) for path in made)
            _check_left_out(num_items - num_made, num_items, part.unit, self.share)
            told = {name: one for name, one in told.items() if not name.startswith(f"{kind}-")}
            told |= {path.name: store.describe(path) for path in made}
            index |= part.notes()
        store.write_index(self.folder, {**index, "manifest": self.rows.fingerprint, "shards": told})
        return 0

    def _jobs_of(self, part: Part) -> list[Job]:
        items = part.items(self.rows.rows)
        pieces = [items[first : first + part.per_shard] for first in range(0, len(items), part.per_shard)]
        return [
            Job(kind=part.kind, unit=part.unit, path=self.folder / f"{part.kind}-{number:05d}.safetensors", items=piece)
            for number, piece in enumerate(pieces)
        ]

    def _num_items(self, kind: str) -> int:
        return sum(len(job.items) for job in self.jobs if job.kind == kind)


class ShardsWork:
    """Tar files of whole rows with all their tensors (`dataset.shards`).

    A part that an earlier run made and this one does not is taken over from the shard that is there.
    """

    def __init__(self, wanted: Wanted, read: Read):
        self.rows = manifest.read(wanted.manifest, damaged_share=wanted.damaged_share)
        self.folder: Path = wanted.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index, self.share = store.read_index(self.folder), wanted.damaged_share
        if self.index and self.index.get("kind") != shards.KIND:
            raise ValueError(f"{self.folder} holds a store, no shards; give another --output")
        self.parts = [
            wanted.part(name, read, self.index) for name in NETWORKS if name in wanted.networks or name in self.index
        ]
        self.tokenizer = None if wanted.tokenizer is None else _read_tokenizer(wanted.tokenizer)
        self.counted_with: str = self.index.get("tokenizer", "")
        if self.tokenizer is not None:
            self.counted_with = shards.tokenizer_fingerprint(self.tokenizer)
        self.lines = _lines_by_id(self.rows.path)
        self.damage, self.left_out = Damage(self.rows.path, share=self.share), 0
        numbered, size = list(enumerate(self.rows.rows)), wanted.rows_per_shard
        self.jobs = [
            Job(
                kind=shards.KIND,
                unit="row",
                path=self.folder / f"shard-{first // size:06d}.tar",
                items=numbered[first : first + size],
            )
            for first in range(0, len(numbered), size)
        ]

    def make(self, job: Job, told: Callable[[int], object]) -> None:
        of, earlier = self._of(job), _whole_shard(job.path)
        if earlier is not None and earlier.of == of:
            if earlier.tokenizer != self.counted_with:
                counts = [self._words(dict(job.items)[number]) for number in earlier.numbers.tolist()]
                shards.write_words(job.path, counts, self.counted_with)
            told(len(job.items))
            return
        rows = [row for _, row in job.items]
        tensors: dict[str, Tensor] = {}
        for part in self.parts:
            if earlier is not None and earlier.of.get(part.network.name) == of[part.network.name]:
                kept = (entry for found in shards.read_tensors(job.path, earlier) for entry in found.items())
                tensors |= {name: one for name, one in kept if name.startswith(f"{part.kind}:")}
            else:
                tensors |= dict(part.tensors(part.items(rows), self.damage, lambda _: None))
        samples = [one for number, row in job.items if (one := self._sample(number, row, tensors)) is not None]
        self.left_out += len(rows) - len(samples)
        _check_left_out(self.left_out, len(self.rows.rows), "row", self.share)
        shards.write_shard(job.path, samples, of, self.counted_with)
        told(len(rows))

    def finish(self) -> int:
        missing = sum(not self._is_made(job) for job in self.jobs)
        if missing:
            return missing
        told = [shards.describe(job.path) for job in self.jobs]
        made = {job.path for job in self.jobs}
        for path in set(self.folder.glob("shard-*.tar")) - made:  # of an earlier, longer manifest
            shards.index_path(path).unlink(missing_ok=True)
            path.unlink()
        num_rows = len(self.rows.rows)
        _check_left_out(num_rows - sum(one["rows"] for one in told), num_rows, "row", self.share)
        index = {**self.index, "kind": shards.KIND, "manifest": self.rows.fingerprint, "tokenizer": self.counted_with}
        for part in self.parts:
            index |= part.notes() if part.network.read else {}
        store.write_index(self.folder, {**index, "shards": told})
        return 0

    def _of(self, job: Job) -> dict[str, str]:
        rows = [row for _, row in job.items]
        lines = [f"{number} {hashlib.sha256(self._line(row)).hexdigest()}" for number, row in job.items]
        return {"rows": digest(lines), **{part.network.name: part.of(part.items(rows)) for part in self.parts}}

    def _is_made(self, job: Job) -> bool:
        try:
            index = shards.read_shard_index(job.path)
        except ValueError:
            return False
        return index.of == self._of(job) and index.tokenizer == self.counted_with

    def _sample(self, number: int, row: Row, tensors: Mapping[str, Tensor]) -> Sample | None:
        """A row with its tensors; None when it lacks one."""
        kinds = {part.kind for part in self.parts}
        latents = [f"latents:{row.clip_key(event)}" for event in range(len(row.clips)) if "latents" in kinds]
        teacher = [
            f"teacher:{store.caption_key(event.caption)}" for event in row.storyline.events if "teacher" in kinds
        ]
        features = [f"features:{row.heard_key}"] if "features" in kinds and row.heard_key is not None else []
        heard = [f"clip_features:{row.clip_key(event)}" for event in range(len(row.clips)) if "clip_features" in kinds]
        needed = (*latents, *teacher, *features, *heard)
        if missing := [name for name in needed if name not in tensors]:
            self.damage.note(row.id, f"it is left out, for there is no recording for {missing[0]}")
            return None
        return Sample(
            number=number,
            row=self._line(row),
            tensors={name: tensors[name] for name in needed},
            frames=[len(tensors[name]) for name in latents] or [0] * len(row.clips),
            windows=sum(len(tensors[name]) for name in features),
            words=self._words(row),
        )

    def _words(self, row: Row) -> int:
        if not self.counted_with:
            return 0
        if self.tokenizer is None:
            raise ValueError(f"the texts in {self.folder} have been counted, so new ones must be; give --tokenizer too")
        return len(self.tokenizer.encode(words(row), add_special_tokens=False))

    def _line(self, row: Row) -> bytes:
        first, size = self.lines[row.id]
        with self.rows.path.open("rb") as file:
            file.seek(first)
            return file.read(size)


def _is_made(path: Path, of: str) -> bool:
    """Whether somebody has made the shard: they looked into it, so its header is enough."""
    return path.is_file() and store.read_header(path).of == of


def _whole_shard(path: Path) -> ShardIndex | None:
    """The index of the tar file that is there; None when it is not whole."""
    try:
        index = shards.read_shard_index(path)
    except ValueError:
        return None
    return index if shards.is_whole(path, index) else None


def _check_left_out(left_out: int, num_items: int, unit: str, share: float) -> None:
    if left_out > share * num_items:
        raise ValueError(
            f"{left_out} of {num_items} {unit}s could not be encoded, at most {share:.1%} may be left out; the log "
            "names them. Repair them, or raise --damaged_share"
        )


def _lines_by_id(path: Path) -> dict[str, tuple[int, int]]:
    """Where each row stands in a manifest that has been read: its first byte, and how many there are."""
    found, first = {}, 0
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError, LookupError, TypeError, RecursionError):  # named when the manifest was read
                found.setdefault(json.loads(line)["id"], (first, len(line.rstrip())))
            first += len(line)
    return found


def _read_tokenizer(folder: Path) -> Tokenizer:
    for path in (folder / "tokenizer" / TOKENIZER_FILE, folder / TOKENIZER_FILE):
        if path.is_file():
            break
    else:
        raise ValueError(f"no {TOKENIZER_FILE} in {folder} or in tokenizer/ there; check the path")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
