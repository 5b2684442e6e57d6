"""Packing what the stages start from: the same components in half precision, where the stages look for them."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
import torch

from audiostory.model import tiny
from audiostory.weights import ours


@pytest.fixture(scope="module")
def pack():
    return commands.load("scripts/pack_pretrained.py").main


@pytest.fixture
def runs(tmp_path) -> Path:
    made = {
        "codec": {"codec": tiny.codec(front="waveform")},
        "tangoflux": {"text_encoder": tiny.text_encoder(), "dit": tiny.dit()},
        "hearing": {"audio_encoder": tiny.audio_encoder()},
        "reading": {"planner": tiny.planner()},
    }
    for run, components in made.items():
        for name, component in components.items():
            component.save_pretrained(tmp_path / "runs" / run / "export" / name)
    ours.write_vocabulary(tmp_path / "runs" / "reading" / "export", tiny.vocabulary())
    (tmp_path / "runs" / "tokenizers").mkdir()
    (tmp_path / "runs" / "tokenizers" / "tokenizer.json").write_text("{}")
    (tmp_path / "runs" / "codec" / "log.jsonl").write_text("{}\n")
    return tmp_path / "runs"


def test_exports_stay_where_they_were_in_half_the_room(pack, runs, tmp_path):
    packed = tmp_path / "packed"
    assert pack([str(runs), "--output", str(packed)]) == 0
    places = {path.relative_to(runs) for path in runs.rglob("*") if path.is_file()} - {Path("codec/log.jsonl")}
    assert {path.relative_to(packed) for path in packed.rglob("*") if path.is_file()} == places
    for run, name in (("codec", "codec"), ("tangoflux", "dit"), ("hearing", "audio_encoder"), ("reading", "planner")):
        whole, half = (ours.read_component(folder / run / "export", name) for folder in (runs, packed))
        for key, tensor in whole.state_dict().items():
            stays_whole = key.startswith("duration_embedder.")  # as diffusers reads it too
            assert torch.equal(half.state_dict()[key], tensor if stays_whole else tensor.half().float()), key
    again = ours.read_vocabulary(
        packed / "reading" / "export",
        num_semantic=len(tiny.vocabulary().semantic_ids),
        num_residual=len(tiny.vocabulary().residual_ids),
    )
    assert len(again) == len(tiny.vocabulary())


def test_a_stage_that_is_not_there_is_named_and_what_was_packed_before_stays(pack, runs, tmp_path, capsys):
    packed = tmp_path / "packed"
    assert pack([str(runs), "--output", str(packed), "--runs", "codec"]) == 0
    before = sorted(packed.rglob("*"))
    assert pack([str(runs), "--output", str(packed), "--runs", "codec", "stage1"]) == 2
    assert "stage1/export" in capsys.readouterr().err
    assert sorted(packed.rglob("*")) == before
    assert not list(tmp_path.glob(".*"))
