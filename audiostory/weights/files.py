"""Files from elsewhere: read without running code, without leaving their folder, and checked before they cost memory.

Tensors stay on disk (memory-mapped) until they are asked for one by one. ValueError, naming the file and what to do,
for whatever is missing, damaged, too large or not what it should be.
"""

from __future__ import annotations

import json
import pickle
import re
import reprlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiostory.disk import sha256

CHECKSUMS = "SHA256SUMS"  # what `sha256sum *` prints
LARGEST_CONFIG = 1 << 20  # bytes; configurations have a few thousand
LARGEST_YAML = 1 << 18  # which takes PyYAML two seconds
LARGEST_TOKENIZER = 1 << 28
LARGEST_PICKLE = 1 << 26  # of the names and shapes alone: 4,000 tensors take less than a megabyte

WIDEST, MOST_LAYERS, MOST_SIZES = 1 << 20, 1 << 10, 16  # no network is larger

_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlevel = 100, 100, 2


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one or several files as one mapping; a tensor is mapped from disk when it is asked for.

    `shapes` costs no reading. Pickled files must be in torch's zip format and hold nothing but tensors.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = tuple(paths)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._sources: dict[str, Any] = {}
        for path in self.paths:
            self._add(path)

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        return source[name] if isinstance(source, dict) else source.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    def _add(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            check_safetensors(path)
            try:
                source: Any = safe_open(path, framework="pt")
                shapes = {name: tuple(source.get_slice(name).get_shape()) for name in source.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path} cannot be read as safetensors ({reason(error)}); copy it again") from error
        else:
            source = _unpickle(path)
            shapes = {name: tuple(tensor.shape) for name, tensor in source.items()}
        if twice := sorted(set(shapes) & set(self.shapes)):
            raise ValueError(
                f"{path} repeats {twice[0]}, which another file of the folder holds; copy the folder again"
            )
        self.shapes.update(shapes)
        self._sources.update(dict.fromkeys(shapes, source))


def open_weights(folder: Path, names: Sequence[str], progress: bool = True) -> TensorFiles:
    """The weights of a folder under the first of `names` that is there, whole or in shards (NAME.index.json).

    If the folder has a SHA256SUMS file, all that it lists is compared with it first, configurations too.
    """
    for name in names:
        if (folder / name).is_file():
            paths = [folder / name]
        elif (folder / f"{name}.index.json").is_file():
            paths = _shards(folder / f"{name}.index.json")
        else:
            continue
        verify_checksums(folder, progress)
        return TensorFiles(paths)
    raise ValueError(f"no weights in {folder}: expected {' or '.join(names)}; copy the folder again")


def check_safetensors(path: Path) -> None:
    """ValueError unless a safetensors file is there and as long as its own header says.

    Readers would find out too, but say neither which file nor how much of it is missing.
    """
    _check_fetched(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length) if length < min(size, LARGEST_PICKLE) else b"")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            promised = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} ({size:,} bytes) does not begin as a safetensors file does; copy it again"
            ) from error
    if promised != size:
        raise ValueError(
            f"{path} is damaged: its header promises {promised:,} bytes, the file has {size:,}; copy it again"
        )


def verify_checksums(folder: Path, progress: bool = True) -> None:
    """Compares every file that the folder's SHA256SUMS lists, if it has one; what it does not list is passed over."""
    if not (folder / CHECKSUMS).is_file():
        return
    expected: dict[Path, str] = {}
    for line in read_text(folder / CHECKSUMS).splitlines():
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line.strip())
        if not found:
            raise ValueError(
                f"{folder / CHECKSUMS} holds {short(line)}, expected lines as sha256sum prints them; "
                "copy it again, or delete it to do without"
            )
        path = inside(folder, found[2], CHECKSUMS)
        if expected.setdefault(path, found[1]) != found[1]:
            raise ValueError(f"{folder / CHECKSUMS} gives {short(found[2])} two checksums; copy it again")
    expected.pop(folder / CHECKSUMS, None)  # which `sha256sum *` lists when run again, and cannot know
    if absent := [str(path.relative_to(folder)) for path in expected if not path.is_file()]:
        raise ValueError(
            f"{folder} lacks {', '.join(map(short, absent[:5]))}, which {CHECKSUMS} lists; copy the folder again, or "
            f"delete {CHECKSUMS} to do without"
        )
    with tqdm(
        total=sum(path.stat().st_size for path in expected),
        desc="verifying",
        unit="B",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for path, digest in expected.items():
            if sha256(path, bar.update) != digest:
                raise ValueError(
                    f"{path} is not the file that {CHECKSUMS} describes: it was changed or damaged; copy it again"
                )


def inside(folder: Path, name: object, source: str) -> Path:
    """A path that a file names, which may not lead out of the folder."""
    pure = PurePosixPath(str(name))
    if (
        not isinstance(name, str)
        or not (name and name.isprintable())
        or pure.is_absolute()
        or ".." in pure.parts
        or any(mark in name for mark in "\\:")
    ):
        raise ValueError(
            f"{folder / source} names the path {short(name)}, which may lead out of its folder and is not followed; "
            "write a plain name there"
        )
    return folder / pure


def check_size(path: Path, name: str, value: object, whole: bool = True) -> None:
    """ValueError for a configuration's number that no network has."""
    kinds, most = int if whole else (int, float), MOST_LAYERS if "layers" in name else WIDEST
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
        raise ValueError(
            f"{path}: {name} is {short(value)}, expected a {'whole ' if whole else ''}number from 1 to {most}; "
            "copy the folder again"
        )


def check_sizes(path: Path, name: str, values: object) -> None:
    """ValueError for a configuration's list of numbers that no network has."""
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_SIZES:
        raise ValueError(
            f"{path}: {name} is {short(values)}, expected a list of 1 to {MOST_SIZES} numbers; copy the folder again"
        )
    for value in values:
        check_size(path, name, value)


def short(value: object) -> str:
    """What a file says, for a message: on one line and not too long, whatever it is."""
    return "a huge number" if isinstance(value, int) and abs(value) >> 64 else _REPR.repr(value)


def reason(error: Exception) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def read_json(path: Path, largest: int = LARGEST_CONFIG) -> dict[str, Any]:
    """A JSON object. One that gives a name twice, or NaN, is refused: readers would disagree on what it says."""
    text = read_text(path, largest)
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({reason(error)}); copy the model folder again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object; copy the folder again")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Tags that would make objects are refused; nothing it names is imported."""
    text = read_text(path, LARGEST_YAML)
    try:
        content = yaml.load(text, _PlainYaml)
    except Exception as error:  # a tag such as !!int before what is no number fails in any way
        raise ValueError(f"{path} cannot be read as plain YAML ({reason(error)}); copy the folder again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a mapping; copy the folder again")
    return content


def read_text(path: Path, largest: int = LARGEST_CONFIG) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model folder again")
    if path.stat().st_size > largest:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, at most {largest:,} are read; copy it again")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({reason(error)}); copy it again") from error


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index, LARGEST_PICKLE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map; copy the model folder again")
    paths = sorted({inside(index.parent, name, index.name) for name in weight_map.values()})
    if absent := [path.name for path in paths if not path.is_file()]:
        raise ValueError(f"{index.parent} lacks {', '.join(absent)}, which {index.name} names; copy the folder again")
    return paths


def _check_fetched(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model folder again")
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")


def _unpickle(path: Path) -> dict[str, Tensor]:
    """A state dict without running what it holds: only tensors can come out of `weights_only`, mapped from the file."""
    _check_fetched(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole torch file ({reason(error)}): it is cut off, damaged, or older than torch 1.6; "
            "copy it again"
        ) from error
    # A packed entry could unfold into more than the disk holds; torch packs none.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or any(
        entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE for entry in entries
    ):
        raise ValueError(f"{path} is packed in a way that torch does not write; it is not opened. Copy it again")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and what it holds could run code, so it is not opened; "
            "fetch the weights as safetensors, or from where they were published"
        ) from error
    except Exception as error:  # damage inside the pickle shows in any way
        raise ValueError(f"{path} cannot be read ({reason(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected named tensors; copy it again")
    if strange := [name for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]:
        raise ValueError(
            f"{path} holds {', '.join(map(short, strange[:5]))}, expected names with dense tensors and nothing else; "
            "fetch the weights as safetensors, or from where they were published"
        )
    # Each may be as large as what the file holds, and yet all be views of the same numbers; aliases cost nothing.
    views = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()): tensor
        for tensor in content.values()
    }
    if (unfolded := sum(tensor.nbytes for tensor in views.values())) > (size := path.stat().st_size):
        raise ValueError(
            f"{path} holds views of the same numbers that unfold into {unfolded:,} bytes, the file has {size:,}; "
            "fetch the weights as safetensors, or from where they were published"
        )
    return dict(content)


def _is_plain(value: object) -> bool:
    """Whether a pickled thing is a tensor as large as what the file holds of it: a view may repeat one number for
    ever, and sparse ones unfold."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


class _PlainYaml(yaml.SafeLoader):
    """Without merge keys, which repeat parts of a file until they fill the memory, and without names given twice."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not followed", node.start_mark)
        if len(set(names)) != len(names):
            raise yaml.constructor.ConstructorError(None, None, f"{_twice(names)} is given twice", node.start_mark)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"{_twice([name for name, _ in pairs])} is given twice")
    return content


def _twice(names: Sequence[str]) -> str:
    return short(next(name for name, count in Counter(names).items() if count > 1))


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
