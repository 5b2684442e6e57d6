"""Published weights, read from where the caller says they are, strictly; nothing is downloaded and no code is run."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from audiostory.disk import sha256


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file of weights as its makers hand it out: its name, where it is, and its size."""

    file: str
    project: str
    megabytes: int

    def find(self, path: str | Path) -> Path:
        """The file at `path`, or of its published name in that folder; ValueError that tells what to fetch."""
        path = Path(path)
        found = path / self.file if path.is_dir() else path
        if not found.is_file():
            raise ValueError(
                f"no weights at {found}: fetch {self.file} (about {self.megabytes} MB) from {self.project} and give "
                "its path, or the folder that it is in"
            )
        return found


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of one file as everyone computes it; of several, over their names and digests."""
    digests = {path.name: sha256(path) for path in paths}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickled one, there also under "model" as PANNs has them.

    ValueError for a file that is neither, damaged, or holds anything that could run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as weights ({reason}); fetch it again, as it is published") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not hold named tensors; give the weights as they are published")
    return dict(content)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, optional: str = "$^") -> None:
    """Every tensor of the network from the file and none left over; those whose names `optional` finds may lack, and
    then become 0. A network on the meta device takes the file's tensors as its own.

    ValueError with the names that are missing, unknown or of another shape.
    """
    expected = network.state_dict()
    given = {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in expected.items()
        if re.search(optional, name)
    } | dict(tensors)
    wrong = {
        "missing": sorted(expected.keys() - given.keys()),
        "unknown": sorted(given.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(given[name].shape)}, expected {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in wrong.items() if names)
        raise ValueError(
            f"{path} is not the weights of a {type(network).__name__} ({listed}); give the file as it is published"
        )
    network.load_state_dict({name: given[name].to(expected[name].dtype) for name in expected}, assign=True)
    network.requires_grad_(False).eval()


# Cnn14_16k_mAP=0.438.pth also holds the state of the sampler that it was trained with: arrays of whole numbers.
_reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
_ARRAYS = [
    _reconstruct,
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # its name when those were written
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]
