"""Rows with their tensors in tar files, as WebDataset has them: for corpora too large to lie in many small pieces.

    index.json              fingerprints as in a store, and of each shard its rows, its size and its index's digest
    shard-000000.tar        000000000.json, 000000000.safetensors, 000000001.json, ...: a manifest's row and its tensors
    shard-000000.json       where each sample stands, its digest, and how long it is, so that batches are planned unread

Any WebDataset reader can read the tar files. Training reads single samples at the places that the index tells, from a
few shards at a time (`mixture.BatchPlan`), and checks each against its digest. Nothing is ever unpickled or unpacked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from tokenizers import Tokenizer
from torch import Tensor

from audiostory.dataset import manifest
from audiostory.dataset.manifest import Row
from audiostory.dataset.rows import DamagedSampleError, Lengths
from audiostory.dataset.store import AGAIN, INDEX, Made, StoreError, caption_key, read_index
from audiostory.disk import write_text
from audiostory.story.vocabulary import Vocabulary

log = logging.getLogger(__name__)

KIND = "shards"  # what the index of a set says it is
BLOCK = tarfile.BLOCKSIZE
MEMBERS = (".json", ".safetensors")
MAX_SAMPLE_BYTES = 1 << 30
MAX_OPEN = 64  # files in each process
DIGEST_LENGTH = 32
_COLUMNS = ("numbers", "offsets", "sizes", "clips", "windows", "words")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample on its way into a shard. `number` is its row's in the manifest, `row` that row as JSON.

    `words` are the tokens of its texts.
    """

    number: int
    row: bytes
    tensors: Mapping[str, Tensor]
    frames: Sequence[int]
    windows: int
    words: int


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What is known of a shard. `of` tells, part by part, what it was made of; `digests` has one per sample.

    `words` were counted with the tokenizer of that fingerprint, and are 0 where there was none.
    """

    of: Mapping[str, str]
    tokenizer: str
    num_bytes: int
    digests: np.ndarray
    numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    clips: np.ndarray
    frames: np.ndarray  # of each event, row after row
    windows: np.ndarray
    words: np.ndarray


def is_set(folder: str | Path) -> bool:
    return Path(folder).is_dir() and read_index(Path(folder)).get("kind") == KIND


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Of what decides how text is cut; special tokens stand in no text."""
    parts = json.loads(tokenizer.to_str())
    cut = {name: parts.get(name) for name in ("normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(cut, sort_keys=True).encode()).hexdigest()[:16]


def write_shard(path: Path, samples: Iterable[Sample], of: Mapping[str, str], tokenizer: str = "") -> None:
    """The tar file at `path` and its index beside it, each under a temporary name first; the index comes last."""
    columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, "frames", "digests")}
    aside, offset = path.with_name(f".{path.name}.part"), 0
    with aside.open("wb") as file:
        for sample in samples:
            packed = _packed(f"{sample.number:09d}", (sample.row, save(dict(sample.tensors))))
            file.write(packed)
            found = {
                "numbers": sample.number,
                "offsets": offset,
                "sizes": len(packed),
                "digests": _digest(packed),
                "clips": len(sample.frames),
                "windows": sample.windows,
                "words": sample.words,
            }
            for name, value in found.items():
                columns[name].append(value)
            columns["frames"].extend(sample.frames)
            offset += len(packed)
        file.write(bytes(2 * BLOCK))  # the end of a tar file
    aside.replace(path)
    _write_index(path, {"of": dict(of), "tokenizer": tokenizer, "num_bytes": offset + 2 * BLOCK, **columns})


def write_words(path: Path, words: Sequence[int], tokenizer: str) -> None:
    """Counts the texts of a shard anew: its index alone is written."""
    index = json.loads(index_path(path).read_bytes())
    _write_index(path, index | {"words": list(words), "tokenizer": tokenizer})


def index_path(path: Path) -> Path:
    return path.with_suffix(".json")


def describe(path: Path) -> dict[str, Any]:
    """A shard as the index of its set tells of it."""
    return {
        "name": path.name,
        "rows": len(read_shard_index(path).numbers),
        "index": _digest(index_path(path).read_bytes()),
    }


def read_shard_index(path: Path, digest: str | None = None) -> ShardIndex:
    """That of the tar file at `path`. ValueError when it is missing, cannot be true, or is not the one of `digest`."""
    beside = index_path(path)
    try:
        raw = beside.read_bytes()
        if digest is not None and _digest(raw) != digest:
            raise ValueError("it is not the one that the set was finished with")
        told = json.loads(raw)
        columns = {name: np.array(told[name], dtype=np.int64) for name in (*_COLUMNS, "frames")}
        index = ShardIndex(
            of=dict(told["of"]),
            tokenizer=str(told["tokenizer"]),
            num_bytes=int(told["num_bytes"]),
            digests=np.array(told["digests"], dtype=f"S{DIGEST_LENGTH}"),
            **columns,
        )
        _check(index)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the index {beside} cannot be used ({error}); {AGAIN}") from error
    return index


def is_whole(path: Path, index: ShardIndex) -> bool:
    """Whether every sample of a shard is as it was written. Reads it all."""
    if not path.is_file() or path.stat().st_size != index.num_bytes:
        return False
    with path.open("rb") as file:
        return all(
            _digest(file.read(size)).encode() == told for size, told in zip(index.sizes, index.digests, strict=True)
        )


def read_tensors(path: Path, index: ShardIndex) -> Iterable[dict[str, Tensor]]:
    """The tensors of each sample, of a shard that is whole."""
    with path.open("rb") as file:
        for number, size in zip(index.numbers.tolist(), index.sizes.tolist(), strict=True):
            yield load(_members(file.read(size), f"{number:09d}")[1])


class RowTensors:
    """The tensors of one row."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        self._tensors, self._where = tensors, where

    def latents(self, key: str) -> Tensor:
        return self._tensor(f"latents:{key}")

    def teacher(self, caption: str) -> Tensor:
        return self._tensor(f"teacher:{caption_key(caption)}")

    def features(self, heard_key: str) -> Tensor:
        return self._tensor(f"features:{heard_key}")

    def clip_features(self, key: str) -> Tensor:
        return self._tensor(f"clip_features:{key}")

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise StoreError(f"{self._where} holds no {name}; {AGAIN}")
        return self._tensors[name].float()


class ShardSet(Made):
    """Reads a set of shards (`rows.Rows`). Files are opened on first use in each process.

    A shard that is missing, or whose size or index is not as the set was finished with, is named and left out.
    ValueError when more than `damaged_share` of all rows are lost so, or for a folder that holds no finished set.
    """

    def __init__(self, folder: str | Path, *, damaged_share: float = manifest.DAMAGED_SHARE):
        self.path = Path(folder)
        super().__init__(read_index(self.path))
        if self.index.get("kind") != KIND:
            raise ValueError(
                f"no finished set of shards at {self.path}; make it with scripts/encode_latents.py --format shards"
            )
        found = self._found(damaged_share)
        self.names, indices = [name for name, _ in found], [index for _, index in found]

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(index, name) for index in indices])

        sizes = tuple(len(index.numbers) for index in indices)
        self.lengths = Lengths(
            clips=joined("clips"),
            windows=joined("windows"),
            frames=joined("frames"),
            num_listening=self.num_listening,
            shards=sizes,
        )
        self._tokenizers, self._words = {index.tokenizer for index in indices}, joined("words")
        self._ends = np.cumsum(sizes)
        self._numbers, self._offsets, self._sizes = joined("numbers"), joined("offsets"), joined("sizes")
        self._digests = joined("digests")
        self._files: OrderedDict[int, FileIO] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """Of the manifest that the set was made of."""
        return self.index["manifest"]

    def __len__(self) -> int:
        return len(self._sizes)

    def words(self, vocabulary: Vocabulary) -> np.ndarray:
        if self._tokenizers != {tokenizer_fingerprint(vocabulary.tokenizer)}:
            raise ValueError(
                f"the texts in {self.path} were counted with another tokenizer, or not at all; run "
                "scripts/encode_latents.py again with --tokenizer, it only counts anew"
            )
        return self._words

    def read(self, number: int) -> tuple[Row, RowTensors]:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        name = f"{self._numbers[number]:09d}"
        where = f"{self.path / self.names[shard]}, sample {name}"
        try:
            packed = os.pread(self._file(shard).fileno(), int(self._sizes[number]), int(self._offsets[number]))
            if _digest(packed).encode() != self._digests[number]:
                raise ValueError("its content is not what was written")
            row, tensors = _members(packed, name)
            return manifest.parse(json.loads(row), self.path), RowTensors(load(tensors), where)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise DamagedSampleError(f"{where}: {error}") from error

    def _found(self, damaged_share: float) -> list[tuple[str, ShardIndex]]:
        """The shards that can be read, by name."""
        try:
            told = [(str(entry["name"]), int(entry["rows"]), str(entry["index"])) for entry in self.index["shards"]]
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path / INDEX} does not tell of shards ({error!r}); {AGAIN}") from error
        found, lost = [], []
        for name, num_rows, digest in told:
            path = self.path / Path(name).name
            try:
                index = read_shard_index(path, digest)
                if path.stat().st_size != index.num_bytes:
                    raise ValueError(f"{path} has {path.stat().st_size} bytes, expected {index.num_bytes}; {AGAIN}")
                found.append((path.name, index))
            except (OSError, ValueError) as error:
                log.warning("left out a shard of %d rows: %s", num_rows, error)
                lost.append((num_rows, error))
        num_lost, num_rows = sum(rows for rows, _ in lost), sum(rows for _, rows, _ in told)
        if not found or num_lost > damaged_share * num_rows:
            raise ValueError(
                f"{self.path}: {num_lost} of {num_rows} rows are in shards that cannot be used, at most "
                f"{damaged_share:.1%} may be left out. The first: {lost[0][1] if lost else 'there are no shards'}"
            )
        return found

    def _file(self, shard: int) -> FileIO:
        if shard not in self._files:
            file = FileIO(self.path / self.names[shard])
            if hasattr(os, "posix_fadvise"):  # samples come in random order, but from few shards: fetch them whole
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            self._files[shard] = file
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


def _write_index(path: Path, index: Mapping[str, Any]) -> None:
    write_text(index_path(path), json.dumps(index) + "\n")


def _packed(name: str, contents: Sequence[bytes]) -> bytes:
    """A sample's members with their headers, as they stand in the tar file."""
    blocks = []
    for suffix, content in zip(MEMBERS, contents, strict=True):
        info = tarfile.TarInfo(name + suffix)
        info.size = len(content)
        blocks += [info.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)]
    packed = b"".join(blocks)
    if len(packed) > MAX_SAMPLE_BYTES:
        raise ValueError(f"sample {name} has {len(packed)} bytes, at most {MAX_SAMPLE_BYTES} fit into a shard")
    return packed


def _members(packed: bytes, name: str) -> list[bytes]:
    """The contents of a sample's members. ValueError when it is not two plain files of these names."""
    contents, place = [], 0
    for suffix in MEMBERS:
        try:
            info = tarfile.TarInfo.frombuf(packed[place : place + BLOCK], "utf-8", "strict")
        except tarfile.HeaderError as error:
            raise ValueError(f"no tar header where {name + suffix} should begin ({error})") from error
        content = packed[place + BLOCK : place + BLOCK + info.size]
        if info.name != name + suffix or info.type != tarfile.REGTYPE or len(content) != info.size:
            raise ValueError(f"expected the file {name + suffix}, found {info.name!r} of {info.size} bytes")
        contents.append(content)
        place += BLOCK + -(-info.size // BLOCK) * BLOCK
    return contents


def _check(index: ShardIndex) -> None:
    """ValueError unless the columns fit each other and the samples lie one after the other in the file."""
    num_rows = len(index.digests)
    columns = [getattr(index, name) for name in _COLUMNS]
    if any(column.shape != (num_rows,) for column in columns) or index.frames.shape != (index.clips.sum(),):
        raise ValueError("its columns are not of one length")
    if any((column < 0).any() for column in (*columns, index.frames)):
        raise ValueError("it holds negative numbers")
    ends = np.cumsum(index.sizes)
    if (index.sizes > MAX_SAMPLE_BYTES).any() or (index.offsets != ends - index.sizes).any():
        raise ValueError("its samples do not lie one after the other")
    if index.num_bytes != (ends[-1] if num_rows else 0) + 2 * BLOCK:
        raise ValueError("its samples do not fill the file")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]
