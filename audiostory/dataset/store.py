"""Latents and teacher states that were computed once: safetensors shards, mapped into memory, and an index of them.

`scripts/encode_latents.py` writes a store beside a manifest. Latents are in half precision under "{row id}/{event}",
teacher states under a digest of their caption. The index holds fingerprints of the manifest and of the networks, so
that a store which no longer fits is an error and not a silent loss of quality.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

INDEX = "index.json"


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
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def caption_key(caption: str) -> str:
    return hashlib.blake2b(caption.encode(), digest_size=12).hexdigest()


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Under a temporary name first, so that a shard which is there is whole."""
    aside = path.with_suffix(".part")
    save_file(dict(tensors), aside, metadata=dict(metadata))
    aside.replace(path)


def shard_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as shard:
        return shard.metadata() or {}


def read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text()) if (folder / INDEX).is_file() else {}


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    aside = folder / f".{INDEX}.part"
    aside.write_text(json.dumps(dict(index), indent=2) + "\n")
    aside.replace(folder / INDEX)


class Store:
    """Reads a store. Shards are opened on first use in each process, so a store may travel to a reader process."""

    def __init__(self, folder: str | Path, *, manifest_fingerprint: str | None = None):
        """ValueError when there is no finished store, or when it was made of another manifest than the one given."""
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        if not self.index:
            raise ValueError(f"no finished store of latents at {self.folder}; make it with scripts/encode_latents.py")
        if manifest_fingerprint is not None and self.index["manifest"] != manifest_fingerprint:
            raise ValueError(
                f"the latents at {self.folder} were made of another version of their manifest; run "
                "scripts/encode_latents.py again, it encodes what changed"
            )
        self._open: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}

    def latents(self, key: str) -> Float[Tensor, "T Z"]:
        return self._tensor(f"latents:{key}", f"no latents of event {key}").float()

    def num_frames(self, key: str) -> int:
        return self._handle(f"latents:{key}", f"no latents of event {key}").get_slice(f"latents:{key}").get_shape()[0]

    def teacher(self, caption: str) -> Float[Tensor, "M C"]:
        return self._tensor(f"teacher:{caption_key(caption)}", f"no teacher states of the caption {caption!r}").float()

    def has_latents(self, key: str) -> bool:
        return f"latents:{key}" in self._places()

    @property
    def has_codec(self) -> bool:
        """Whether sound was encoded at all; a store may hold teacher states alone."""
        return bool(self.index.get("codec"))

    @property
    def has_teacher(self) -> bool:
        return bool(self.index.get("text_encoder"))

    def _tensor(self, name: str, missing: str) -> Tensor:
        return self._handle(name, missing).get_tensor(name)

    def _handle(self, name: str, missing: str) -> Any:
        shard = self._places().get(name)
        if shard is None:
            raise ValueError(f"{self.folder} holds {missing}; run scripts/encode_latents.py again")
        return self._open[shard]

    def _places(self) -> dict[str, str]:
        if not self._open:
            for path in sorted(self.folder.glob("*.safetensors")):
                self._open[path.name] = safe_open(path, "pt")
                self._shard_of.update(dict.fromkeys(self._open[path.name].keys(), path.name))
        return self._shard_of

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_shard_of": {}}


def half(tensor: Tensor) -> Tensor:
    """As it is stored: half precision, in memory of its own."""
    return tensor.to(torch.float16).contiguous().clone()
