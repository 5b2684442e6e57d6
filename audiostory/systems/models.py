"""What the systems have in common about model folders and devices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from audiostory.disk import sha256

# Weights, configurations and vocabularies, in every layout that is read; not what a hub puts beside them.
_ENDINGS = (".safetensors", ".json", ".yaml", ".bin", ".txt", ".model")


def fingerprint(folder: Path) -> str:
    """Of the weights and configurations of a model folder: the same wherever it lies. ValueError without any."""
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file()]
    if not files:
        raise ValueError(f"there is no model in {folder}; check the path")
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def checked_device(name: str | None) -> str:
    """The device of that name, or the first GPU if there is one. ValueError for one that is not here."""
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {device!r} here ({reason}); cpu works everywhere") from error
    return device
