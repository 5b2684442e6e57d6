"""What was computed once, in safetensors shards that are mapped into memory, and an index of them.

`scripts/encode_latents.py` writes a store beside a manifest, in half precision: latents under "{row id}/{event}",
teacher states under a digest of their caption, the features of a recording that an instruction holds under its path,
and, where an ablation needs them, features of clips under the same names as their latents.
The index holds fingerprints of the manifest and of the networks, so that a store which no longer fits is an error and
not a silent loss of quality. It also knows each shard's size and header, and the header a checksum of every tensor: a
file that was cut short or changed is named before anything is learnt from it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audiostory.disk import sha256, write_text

INDEX = "index.json"
MAX_HEADER_BYTES = 100_000_000  # as the format has it


class Tensors(Protocol):
    """Whatever a sample's tensors are asked of: a whole store, or one row of a shard."""

    def latents(self, key: str) -> Float[Tensor, "T Z"]: ...
    def teacher(self, caption: str) -> Float[Tensor, "M C"]: ...
    def features(self, heard_key: str) -> Float[Tensor, "n K W"]: ...
    def clip_features(self, key: str) -> Float[Tensor, "M E"]: ...


class StoreError(ValueError):
    """What was computed is damaged or lacking, and is to be made anew."""


def fingerprint(folder: str | Path) -> str:
    """Of a network's folder: its configuration and weights, whatever their file names."""
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(
            f"{folder} holds no safetensors; expected the exported folder of a network, such as runs/codec/export/codec"
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(sha256(path)))
    return digest.hexdigest()[:16]


def caption_key(caption: str) -> str:
    return hashlib.blake2b(caption.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Header:
    """The beginning of a shard. `of` tells what its tensors were made of; `checksums` are of their bytes."""

    of: str
    digest: str
    shapes: Mapping[str, tuple[int, ...]]
    checksums: Mapping[str, int]


def write_shard(path: Path, tensors: Mapping[str, Tensor], of: str) -> None:
    """Under a temporary name first, so that a shard which is there is whole."""
    aside = path.with_name(f".{path.name}.part")
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    # One entry: the order of several would change from one process to the next.
    save_file(dict(tensors), aside, metadata={"about": json.dumps({"of": of, "crc32": sums})})
    aside.replace(path)


def read_header(path: Path) -> Header:
    """ValueError when the file is no whole safetensors file. Shards of old have no checksums."""
    try:
        with path.open("rb") as file:
            size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= min(MAX_HEADER_BYTES, size - 8) else b""
        entries = json.loads(raw)
        metadata = entries.pop("__metadata__", {})
        about = json.loads(metadata["about"]) if "about" in metadata else {"of": metadata.get("of", ""), "crc32": {}}
        if 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0) != size:
            raise ValueError("it is not as long as it says")
        return Header(
            of=about["of"],
            digest=hashlib.sha256(raw).hexdigest()[:16],
            shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
            checksums=about["crc32"],
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as a shard ({error}); {AGAIN}") from error


def is_whole(path: Path, of: str) -> bool:
    """Whether a shard is there, was made of the same things, and has every tensor as it was written. Reads it all."""
    try:
        header = read_header(path)
        if header.of != of or set(header.checksums) != set(header.shapes):
            return False
        with safe_open(path, "pt") as shard:
            return all(checksum(shard.get_tensor(name)) == header.checksums[name] for name in header.shapes)
    except (ValueError, SafetensorError):
        return False


def checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)


def read_index(folder: Path) -> dict[str, Any]:
    """{} when there is none."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
    if not isinstance(index, dict):
        raise ValueError(f"{path} holds {type(index).__name__}, expected an object; {AGAIN}")
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    write_text(folder / INDEX, json.dumps(dict(index), indent=2) + "\n")


def describe(path: Path) -> dict[str, Any]:
    """A shard as the index tells of it."""
    return {"bytes": path.stat().st_size, "header": read_header(path).digest}


class Made:
    """What an index tells of what was made, and with which networks."""

    def __init__(self, index: Mapping[str, Any]):
        self.index = index

    @property
    def has_codec(self) -> bool:
        """Whether sound was encoded at all; a store may hold teacher states alone."""
        return bool(self.index.get("codec"))

    @property
    def num_frames_of_all(self) -> int | None:
        """The one length that all latents were filled up to; None where each has its clip's."""
        return self.index.get("num_frames")

    @property
    def has_teacher(self) -> bool:
        return bool(self.index.get("text_encoder"))

    @property
    def has_audio_encoder(self) -> bool:
        """Whether the recordings that instructions hold were listened to."""
        return bool(self.index.get("audio_encoder"))

    @property
    def has_clip_encoder(self) -> bool:
        """Whether the clips themselves were listened to."""
        return bool(self.index.get("clip_encoder"))

    @property
    def clip_features_shape(self) -> tuple[int, int]:
        """[M E] of every clip's features."""
        return self.index["num_clip_tokens"], self.index["clip_width"]

    @property
    def num_listening(self) -> int:
        """At how many tokens each window of those is heard, 0 where there are none."""
        return self.index.get("num_listening", 0)


class Store(Made):
    """Reads a store. Shards are opened on first use in each process, so a store may travel to a reader process."""

    def __init__(self, folder: str | Path, *, manifest_fingerprint: str | None = None):
        """ValueError when there is no finished store, or when it was made of another manifest than the one given."""
        self.folder = Path(folder)
        super().__init__(read_index(self.folder))
        if not self.index:
            raise ValueError(f"no finished store of latents at {self.folder}; make it with scripts/encode_latents.py")
        if manifest_fingerprint is not None and self.index["manifest"] != manifest_fingerprint:
            raise ValueError(
                f"the latents at {self.folder} were made of another version of their manifest; run "
                "scripts/encode_latents.py again, it encodes what changed"
            )
        self._open: dict[str, Any] = {}
        self._places: dict[str, tuple[str, int, int | None]] = {}  # of a tensor: shard, first dimension, checksum

    def latents(self, key: str) -> Float[Tensor, "T Z"]:
        return self._tensor(f"latents:{key}", f"no latents of event {key}")

    def num_frames(self, key: str) -> int:
        return self._place(f"latents:{key}", f"no latents of event {key}")[1]

    def teacher(self, caption: str) -> Float[Tensor, "M C"]:
        return self._tensor(f"teacher:{caption_key(caption)}", f"no teacher states of the caption {caption!r}")

    def features(self, heard_key: str) -> Float[Tensor, "n K W"]:
        """What the audio encoder hears in a recording, K means over time for each of its n windows."""
        return self._tensor(f"features:{heard_key}", f"no features of the recording {heard_key}")

    def clip_features(self, key: str) -> Float[Tensor, "M E"]:
        """What the audio encoder hears in an event's own recording, M means over its time."""
        return self._tensor(f"clip_features:{key}", f"no features of event {key}")

    def num_windows(self, heard_key: str) -> int:
        return self._place(f"features:{heard_key}", f"no features of the recording {heard_key}")[1]

    def has_latents(self, key: str) -> bool:
        return f"latents:{key}" in self._all_places()

    def has_clip_features(self, key: str) -> bool:
        return f"clip_features:{key}" in self._all_places()

    def has_features(self, heard_key: str) -> bool:
        return f"features:{heard_key}" in self._all_places()

    def _tensor(self, name: str, missing: str) -> Tensor:
        shard, _, expected = self._place(name, missing)
        if shard not in self._open:
            self._open[shard] = safe_open(self.folder / shard, "pt")
        tensor = self._open[shard].get_tensor(name)
        if expected is not None and checksum(tensor) != expected:
            raise StoreError(f"{self.folder / shard} is damaged at {name}; {AGAIN}")
        return tensor.float()

    def _place(self, name: str, missing: str) -> tuple[str, int, int | None]:
        place = self._all_places().get(name)
        if place is None:
            raise StoreError(f"{self.folder} holds {missing}; {AGAIN}")
        return place

    def _all_places(self) -> dict[str, tuple[str, int, int | None]]:
        if not self._places:
            for path, header in self._headers():
                sums = header.checksums
                self._places |= {name: (path.name, shape[0], sums.get(name)) for name, shape in header.shapes.items()}
        return self._places

    def _headers(self) -> list[tuple[Path, Header]]:
        """Of every shard, once each is seen to be the one that the index tells of. A store of old tells of none."""
        told = self.index.get("shards")
        if told is None:
            return [(path, read_header(path)) for path in sorted(self.folder.glob("*.safetensors"))]
        found = [(self.folder / Path(name).name, read_header(self.folder / Path(name).name)) for name in sorted(told)]
        for path, header in found:
            if told[path.name] != {"bytes": path.stat().st_size, "header": header.digest}:
                raise StoreError(f"{path} is not the shard that {self.folder / INDEX} tells of; {AGAIN}")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_places": {}}


def half(tensor: Tensor) -> Tensor:
    """As it is stored: half precision, in memory of its own."""
    return tensor.to(torch.float16).contiguous().clone()


AGAIN = "run scripts/encode_latents.py again, it makes anew what is missing or damaged"
