"""What the released system did at tiny size: recorded inputs and outputs, and the checkpoint that they belong to.

    manifest.json             every tensor of every weight file, and a digest per file
    ckpt_static/              the checkpoint's configurations and tokenizers
    data/*.safetensors        recorded tensors
    data/*.json               recorded texts, ids and losses

The weights are not stored but drawn anew: a tensor depends only on (seed, name, shape), see `_draw`. The digests see to
it that a slip in the drawing cannot pass as a wrong model. Nothing in the folder is run.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from audiostory.weights import files

MOST_WEIGHTS = 1 << 30  # values to draw; the recorded checkpoint has 10 million
LARGEST_JSON = 1 << 26


class Recording:
    """ValueError, naming the file, when the folder is not one or is damaged."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "manifest.json").is_file():
            raise ValueError(f"{folder} holds no recording: manifest.json is missing; give a folder such as golden/")
        self.manifest = files.read_json(self.folder / "manifest.json", LARGEST_JSON)
        if not isinstance(self.manifest.get("seed"), int) or not isinstance(self.manifest.get("files"), dict):
            raise ValueError(f"{self.folder / 'manifest.json'} lacks the seed or the files; fetch the recording again")

    @cached_property
    def meta(self) -> dict[str, Any]:
        return self.json("meta")

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])

    def json(self, name: str) -> dict[str, Any]:
        return files.read_json(self.folder / "data" / f"{name}.json", LARGEST_JSON)

    def data(self, name: str) -> dict[str, Tensor]:
        """The tensors of data/{name}.safetensors."""
        return dict(files.TensorFiles([self.folder / "data" / f"{name}.safetensors"]))

    def weights(self, path: str) -> dict[str, Tensor]:
        """The tensors of one weight file of the checkpoint, by its own names; aliases are the same tensor."""
        entries = self.manifest["files"][path]["keys"]
        total = sum(int(np.prod(entry["shape"], dtype=np.int64)) for entry in entries.values())
        if not 0 < total <= MOST_WEIGHTS:
            raise ValueError(f"manifest.json wants {total:,} values for {path}; at most {MOST_WEIGHTS:,} are drawn")
        drawn = {key: _draw(self.seed, entry) for key, entry in entries.items() if "alias" not in entry}
        built = {key: drawn[entry.get("alias", key)] for key, entry in entries.items()}
        digest = hashlib.sha256()
        for key in sorted(built):
            digest.update(key.encode())
            digest.update(built[key].numpy().tobytes())
        if digest.hexdigest() != self.manifest["files"][path].get("sha256", digest.hexdigest()):
            raise ValueError(f"{path} was not drawn as it was recorded; manifest.json is damaged")
        return built

    def rebuild(self, folder: str | Path) -> Path:
        """Writes the whole checkpoint into `folder` and gives the path of its ckpt/."""
        folder = Path(folder)
        for path in sorted((self.folder / "ckpt_static").rglob("*")):
            if path.is_file() and not path.is_symlink():
                target = folder / "ckpt" / path.relative_to(self.folder / "ckpt_static")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        for name, entry in self.manifest["files"].items():
            path = files.inside(folder, name, "manifest.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = self.weights(name)
            if path.suffix == ".bin":
                torch.save(tensors, path)
            else:
                left_out = set(entry.get("skip_in_file") or ())
                save_file({key: value.clone() for key, value in tensors.items() if key not in left_out}, path)
        return folder / "ckpt"


def _draw(seed: int, entry: dict[str, Any]) -> Tensor:
    """24 uniform bits per weight from a Philox generator that is keyed by the name; exact on every machine."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{entry['name']}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(int(np.prod(entry["shape"], dtype=int)))
    uniform = (raw >> np.uint64(40)) * 2.0**-24 - 0.5
    values = entry["offset"] + 2.0 * entry["amp"] * uniform
    return torch.from_numpy(values.astype(np.float32).reshape(entry["shape"]))
