"""The recorded checkpoint as files, and a copy of it to damage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import golden_weights
import pytest


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory) -> Path:
    """The path of its ckpt/. Shared between tests: leave it as it is."""
    return golden_weights.RECORDING.rebuild(tmp_path_factory.mktemp("golden"))


@pytest.fixture
def checkpoint(golden_checkpoint, tmp_path) -> Path:
    """The weights are linked, so replace them rather than write into them."""

    def copy(source: str, target: str) -> None:
        (os.link if Path(source).suffix in (".bin", ".safetensors") else shutil.copyfile)(source, target)

    return Path(shutil.copytree(golden_checkpoint, tmp_path / "ckpt", copy_function=copy))
