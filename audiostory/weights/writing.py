"""Large files written with little memory, and folders that are there whole or not at all.

A shard at a time is read, written and let go, so that no more than that is ever in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from audiostory.weights import files


@contextmanager
def in_place_at_the_end(output: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `output` at the end and is gone after any failure.

    It carries the id of its process, so that several may write the same output and the first to finish has it; what a
    killed one left is cleared away. ValueError when `output` exists.
    """
    _check_absent(output)
    above = next(folder for folder in output.absolute().parents if folder.exists())
    _clear_left_behind(above, f".{output.name}.unfinished-")
    aside = above / f".{output.name}.unfinished-{os.getpid()}"
    aside.mkdir()
    try:
        yield aside
        _check_absent(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Lazy:
    """Tensors by the names they shall have: what each is like (on the meta device), and how to read one when its turn
    comes. `let_go` is called after every shard: pages of a mapped file stay in memory for as long as it is mapped."""

    like: Mapping[str, Tensor]
    read: Callable[[str, torch.dtype], Tensor]
    let_go: Callable[[], None]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.like.values())

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.like.values())).dtype


def save_shards(tensors: Lazy, folder: Path, stem: str, largest: int | None, bar: tqdm) -> None:
    """stem.safetensors, or in shards of at most `largest` bytes under Hugging Face's names, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    split = split_torch_state_dict_into_shards(
        dict(tensors.like),
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=tensors.num_bytes + 1 if largest is None else largest,
    )
    for file, names in split.filename_to_tensors.items():
        save({name: tensors.read(name, tensors.like[name].dtype) for name in names}, folder / file, bar)
        tensors.let_go()
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def save(tensors: Mapping[str, Tensor], path: Path, bar: tqdm) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise _unwritten(path, error) from error
    bar.update(sum(tensor.nbytes for tensor in tensors.values()))


def save_pickled(tensors: Mapping[str, Tensor], path: Path, bar: tqdm) -> str:
    """As torch.save does, from the mapped tensors straight to the disk; what is given twice is stored once.

    Returns the file's SHA-256.
    """
    with path.open("wb") as file:
        watched = _Watched(file, bar)
        try:
            torch.save(dict(tensors), watched)  # type: ignore[arg-type]  # all it asks for is write
        except RuntimeError as error:
            cause = error.__context__  # torch puts an error of its own over a full disk and over Ctrl-C
            if isinstance(cause, OSError):
                raise _unwritten(path, cause) from error
            raise cause or error from None
    return watched.digest.hexdigest()


def write_checksum(path: Path, digest: str) -> None:
    """The folder's SHA256SUMS, for its one large file."""
    (path.parent / files.CHECKSUMS).write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def bytes_bar(num_bytes: int, progress: bool) -> tqdm:
    return tqdm(total=num_bytes, desc="writing", unit="B", unit_scale=True, disable=not progress)


def _check_absent(output: Path) -> None:
    if os.path.lexists(output):
        raise ValueError(f"{output} exists and is not written over; give another folder, or remove it first")


def _clear_left_behind(above: Path, prefix: str) -> None:
    """Removes the folders of processes that are no more. One with our own id is of an earlier process that had it."""
    for folder in above.iterdir():
        pid = folder.name.removeprefix(prefix)
        if pid != folder.name and re.fullmatch(r"[1-9]\d{0,8}", pid) and not _is_another_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_another_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # it is someone else's
        return True
    return pid != os.getpid()


def _unwritten(path: Path, error: Exception) -> OSError:
    return OSError(f"{path} could not be written ({files.reason(error)}); is the disk full?")


class _Watched:
    """A file that counts and digests what goes through it."""

    def __init__(self, file: IO[bytes], bar: tqdm):
        self._file, self._bar, self.digest = file, bar, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self._bar.update(written)
        return written

    def flush(self) -> None:
        self._file.flush()
