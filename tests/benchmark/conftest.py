"""The corpus that the ear and the command are tested on."""

from pathlib import Path

import pytest
from benchmark.cases import write_manifest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The manifest of six stories of a dog, rain and a bell, with their clips."""
    stories = [("dog", "rain"), ("bell",), ("rain", "bell", "dog"), ("dog", "bell", "dog"), ("bell", "rain"), ("dog",)]
    return write_manifest(tmp_path_factory.mktemp("corpus"), stories)
