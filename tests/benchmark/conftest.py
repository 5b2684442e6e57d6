"""The corpus that the ear and the command are tested on."""

from pathlib import Path

import pytest
import torch
from benchmark.cases import write_manifest

from audiostory.benchmark.ear import Ear


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The manifest of six stories of a dog, rain and a bell, with their clips."""
    stories = [("dog", "rain"), ("bell",), ("rain", "bell", "dog"), ("dog", "bell", "dog"), ("bell", "rain"), ("dog",)]
    return write_manifest(tmp_path_factory.mktemp("corpus"), stories)


@pytest.fixture(scope="module")
def ear(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ears") / "ear"
    torch.manual_seed(0)
    names = {"name": ["bell", "dog", "rain"], "place": ["hall", "room"], "register": ["high", "low"]}
    Ear(names).save(folder, {"clips": 0, "held_out_accuracy": {}})
    return folder
