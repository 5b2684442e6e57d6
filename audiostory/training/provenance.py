"""What a checkpoint says of where it came from: the code and the libraries it was made with. No torch here."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "diffusers",
    "accelerate",
    "deepspeed",
    "tokenizers",
    "safetensors",
    "numpy",
)


def of_code() -> dict[str, Any]:
    """The commit that runs, and the files that differ from it; None where the sources are no git checkout."""
    return {"git": _git(Path(__file__).resolve().parents[2]), "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    commit = _run(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _run(folder, "status", "--porcelain", "--untracked-files=no") or ""
    return {"commit": commit.strip(), "changed": [line[3:] for line in changed.splitlines()]}


def _run(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
