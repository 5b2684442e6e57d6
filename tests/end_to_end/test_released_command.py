"""The release's own command line on a folder of the release's shape: the recorded tiny checkpoint.

Its planner is random and would write no event, so the recorded script is put into its mouth, as when it was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

import commands
import golden_weights
import numpy as np
import pytest
import soundfile
import torch

from audiostory.model.planner import Planner, reciting
from audiostory.pipeline import AudioStoryPipeline

SCRIPT = golden_weights.data("generate_scripted")["script_ids"].tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return golden_weights.RECORDING.rebuild(tmp_path_factory.mktemp("released"))


@pytest.fixture(autouse=True)
def recited(monkeypatch):
    write = Planner.write_many

    def recite(planner, prompts, vocabulary, **settings):
        chooser = reciting(SCRIPT, vocabulary)
        return write(planner, prompts, vocabulary, **{**settings, "choose": lambda number, scores: chooser(scores)})

    monkeypatch.setattr(Planner, "write_many", recite)


def run(checkpoint: Path, *flags: str) -> int:
    folders = ["--model_path", str(checkpoint / "audiostory-tiny"), "--no-picture"]
    return commands.load("evaluate/inference.py").main([*folders, *flags])


def test_the_releases_command_line_tells_a_story(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flux = str(checkpoint / "Flux_detokenizer")
    flags = ["--guidance", "4.0", "--save_folder_name", "audiostory", "--total_duration", "50"]
    assert run(checkpoint, "--tangoflux_model", flux, *flags, "--steps", "2") == 0
    folder = tmp_path / "evaluate" / "audiostory"
    assert soundfile.info(folder / "story.wav").frames == 50 * 400
    record = json.loads((folder / "storyline.json").read_text())
    assert [event["caption"] for event in record["events"]][1] == "two dogs bark"
    assert record["rendering"]["guidance"] == 4.0
    assert "here is an example" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_it_computes_in_every_precision(checkpoint, tmp_path, dtype):
    flags = ("--instruction", "rain and dogs", "--total_duration", "3.6", "--steps", "3", "--crossfade_sec", "0.3")
    assert run(checkpoint, *flags, "--dtype", dtype, "--output", str(tmp_path / dtype)) == 0
    samples, _ = soundfile.read(tmp_path / dtype / "story.wav")
    assert run(checkpoint, *flags, "--output", str(tmp_path / "exact")) == 0
    expected, _ = soundfile.read(tmp_path / "exact" / "story.wav")
    error = np.abs(samples - expected).mean() / np.abs(expected).mean()
    assert error < {"fp32": 1e-6, "bf16": 0.3, "fp16": 0.08}[dtype]


def test_as_released_gives_the_wave_that_the_release_wrote(checkpoint, tmp_path):
    flags = [
        "--instruction",
        "rain and dogs",
        "--total_duration",
        "3.6",
        "--crossfade_sec",
        "0.3",
        "--target_sr",
        "320",
    ]
    assert run(checkpoint, *flags, "--as_released", "--output", str(tmp_path / "out")) == 0
    samples, rate = soundfile.read(tmp_path / "out" / "story.wav", dtype="float32")
    assert rate == 320
    np.testing.assert_allclose(samples.T, golden_weights.data("inference_main")["wave"], rtol=0, atol=5e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("more", [[], ["--offload"]])
def test_a_gpu_tells_what_the_cpu_tells(checkpoint, tmp_path, more):
    flags = ("--instruction", "rain and dogs", "--total_duration", "3.6", "--steps", "3", "--crossfade_sec", "0.3")
    told = []
    for name, where in (("cpu", ["--device", "cpu"]), ("gpu", ["--device", "cuda", *more])):
        assert run(checkpoint, *flags, *where, "--output", str(tmp_path / name)) == 0
        told.append(soundfile.read(tmp_path / name / "story.wav")[0])
    np.testing.assert_allclose(*told, rtol=0, atol=1e-2)


def test_the_folders_can_be_named_one_by_one(checkpoint, tmp_path, capsys):
    model = tmp_path / "elsewhere" / "model"
    model.parent.mkdir()
    (checkpoint / "audiostory-tiny").rename(model)
    try:
        flags = ["--model_path", str(model), "--total_duration", "2", "--steps", "1", "--output", str(tmp_path / "out")]
        command = commands.load("evaluate/inference.py")
        assert command.main(flags) == 2
        assert "Flux_detokenizer" in capsys.readouterr().err
        for flag, name in (
            ("--tangoflux_model", "Flux_detokenizer"),
            ("--language_model", "Qwen-tiny"),
            ("--text_encoder", "flan-t5-tiny"),
        ):
            flags += [flag, str(checkpoint / name)]
        assert command.main(flags) == 2  # the list of added tokens is named by config.yaml alone
        assert "added tokens" in capsys.readouterr().err
        flags += ["--added_tokens", str(checkpoint / "tokenizer" / "added_tokens.json")]
        assert command.main([*flags, "--no-picture"]) == 0
    finally:
        model.rename(checkpoint / "audiostory-tiny")


def test_offloading_without_a_gpu_is_refused(checkpoint, tmp_path, capsys):
    assert run(checkpoint, "--offload", "--device", "cpu", "--output", str(tmp_path / "out")) == 2
    assert "there is none to move to" in capsys.readouterr().err


def test_the_text_encoder_does_not_stay(checkpoint):
    folders = (checkpoint / "audiostory-tiny", checkpoint / "Flux_detokenizer")
    pipeline = AudioStoryPipeline.from_released(*folders, dtype=torch.bfloat16)
    assert "text_encoder" not in pipeline.components
    named = [
        type(module).__name__
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for module in part.modules()
    ]
    assert not [name for name in named if name.startswith("T5")]
    assert pipeline.bridge.unconditional.abs().sum() > 0
