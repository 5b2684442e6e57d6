"""The command, and the corpus and the ear that the benchmark's own tests have."""

from pathlib import Path

import commands
import pytest
from benchmark.conftest import corpus, ear  # noqa: F401

from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline
from audiostory.weights.ours import Settings


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """It listens."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    AudioStoryPipeline(
        *parts,
        Settings(steps=1, guidance=1.0, crossfade_seconds=0.25),
        audio_encoder=tiny.audio_encoder(),
        listener_projector=tiny.listener_projector(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def benchmark(tmp_path):
    """evaluate/benchmark.py with these overrides, into tmp_path/out."""
    command = commands.load("evaluate/benchmark.py")

    def call(*overrides: str) -> int:
        return command.main([f"output={tmp_path / 'out'}", "device=cpu", *overrides])

    return call
