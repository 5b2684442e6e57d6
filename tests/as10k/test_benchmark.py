"""What is made of videos is what the benchmark reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import commands
import pytest
from as10k.test_build import SETTINGS, folders, plan  # noqa: F401

from audiostory.as10k.build import build, write_manifests

METRICS = "suite.metrics=[durations,joins]"


@pytest.fixture
def manifest(folders, tmp_path) -> Path:  # noqa: F811
    settings = replace(SETTINGS, row=replace(SETTINGS.row, test_share=1.0))
    built = build(plan(folders, tmp_path / "out", settings=settings))
    (file,) = write_manifests(tmp_path / "out", built.rows)
    return file


def test_a_manifest_from_videos_is_scored_as_it_is_continuations_too(manifest, tmp_path):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        (tmp_path / "told").mkdir(exist_ok=True)
        shutil.copyfile(manifest.parent / row["audio"], tmp_path / "told" / f"{row['id']}.flac")
    command, output = commands.load("evaluate/benchmark.py"), f"output={tmp_path / 'report'}"
    told = f"systems.folder.folder={tmp_path / 'told'}"
    assert command.main(["suite=as10k", f"suite.items={manifest}", METRICS, "system=folder", told, output]) == 0
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["scores"]["folder"]["stories told"]["num"] == len(rows) == 11
    assert report["scores"]["folder"]["length: asked and measured (s)"]["mean"] < 1e-3
    assert report["notes"] == []


def test_a_model_that_cannot_listen_is_told_before_it_tells(manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("audiostory.weights.ours.read_names", lambda folder: ())
    command, output = commands.load("evaluate/benchmark.py"), f"output={tmp_path / 'report'}"
    assert command.main(["suite=as10k", f"suite.items={manifest}", METRICS, "system=mini", output]) == 2
    said = capsys.readouterr().err
    assert "(4 of 11 items) has recordings to listen to, which mini cannot" in said
    assert "grep -v '\"heard\"'" in said
    assert not (tmp_path / "report").exists()
