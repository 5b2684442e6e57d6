"""evaluate/benchmark.py on items with references, with networks that hear the pitch alone, and without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark.test_scoring import Pitch, item, told

from audiostory import sound
from audiostory.benchmark import tasks
from audiostory.benchmark.recorded import read_items
from audiostory.benchmark.scoring import Networks
from audiostory.comparison import config, networks, recordings


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    rows = []
    for number in range(6):
        one = item(number, folder)
        events = [{"caption": e.caption, "start": e.start, "seconds": e.seconds} for e in one.events]
        row = {"id": one.id, "instruction": one.instruction.text, "caption": one.caption, "events": events}
        rows.append(row | {"total_seconds": one.instruction.total_seconds, "reference": f"{number:02d}.wav"})
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "items.jsonl"


@pytest.fixture
def run(benchmark, items):
    return lambda *overrides: benchmark("suite=as10k", f"suite.items={items}", *overrides)


@pytest.fixture
def hearing(monkeypatch):
    def load(metrics, weights, cache, device):
        assert "clap" in metrics
        cnn14 = {"cnn14_16k": Pitch("panns-cnn14-16k"), "cnn14_32k": Pitch("panns-cnn14-32k")}
        return Networks(cache=cache, vggish=Pitch("vggish", patches=True), cnn14=cnn14, clap=Pitch("clap"))

    monkeypatch.setattr(networks, "load", load)


def report(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_any_systems_folder_is_scored_beside_the_truth_and_chance_and_the_paper(run, hearing, items, tmp_path, capsys):
    folder = told(tmp_path / "wavs", read_items(items))
    assert run("system=folder", f"systems.folder.folder={folder}") == 0
    page = report(tmp_path)
    scores = page["scores"]
    assert list(scores) == ["folder", "truth", "shuffled"]
    assert scores["truth"]["FAD (vggish)"]["mean"] == pytest.approx(0, abs=1e-9)
    assert scores["folder"]["FAD (vggish)"]["low"] is None
    assert scores["shuffled"].keys() <= scores["truth"].keys()
    for of_sets in ("FAD (vggish)", "inception score", "loudness (LUFS)"):  # as sets they are the references themselves
        assert not [measure for measure in scores["shuffled"] if of_sets in measure]
    cosine = "cosine of event and caption (clap)"
    assert scores["folder"][cosine]["mean"] > 0.99 > 0.6 > scores["shuffled"][cosine]["mean"]
    assert page["facts"]["networks"]["clap"]["weights_sha256"] == "0"
    assert [entry["table"] for entry in page["beside_paper"]] == [1]
    words = (tmp_path / "out/report.md").read_text()
    assert "| AudioStory | *reported* | 4.1 |" in words
    assert "| folder | *measured here* | - |" in words
    listened = (tmp_path / "out/index.html").read_text()
    assert "wavs/item-03.wav" in listened
    for measure in ("loudness (LUFS)", "KL, reference to generated (panns-cnn14-16k)", cosine):
        assert f"folder: {measure}</option>" in listened  # stories can be sorted by it
    assert "| FAD (vggish) | 6 |" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:overflow")  # a loudness meter is not made for 800 Hz
def test_our_model_tells_the_items_and_needs_no_network_for_lengths_and_levels(run, model, tmp_path):
    metrics = "suite.metrics=[durations,levels]"  # the tiny codec has 800 Hz
    assert (
        run(metrics, "suite.num=3", "system=mini_true_storyline", f"systems.mini_true_storyline.model_path={model}")
        == 0
    )
    scores = report(tmp_path)["scores"]["mini_true_storyline"]
    assert scores["length: asked and measured (s)"]["mean"] < 0.01
    assert scores["stories told"]["mean"] == 1
    assert sound.read(tmp_path / "out/told/mini_true_storyline/item-00/story.wav").seconds == pytest.approx(2, abs=0.01)


def test_missing_networks_are_named_all_at_once_with_what_to_fetch(run, tmp_path, capsys):
    assert run("system=mini") == 2
    error = capsys.readouterr().err
    for file in ("vggish-10086976.pth (about 289 MB)", "Cnn14_16k_mAP=0.438.pth", "Cnn14_mAP=0.431.pth", "laion/clap"):
        assert file in error
    assert "suite.weights.NAME=PATH" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("suite.num=7",), "holds 6 items, 7 were asked"),
        (("suite.metrics=[fad]",), "suite.metrics has 'fad'"),
        (("suite.controls=[silence]",), "suite.controls has 'silence'"),
        (("+suite.weights.clapp=x",), "suite.weights has 'clapp'"),
        (("suite.items=nowhere",), "nowhere"),
        (("suite.table=9",), "suite.table is 9; of the paper's tables there are 1"),
        (("system=[]", "+systems.truth.kind=folder", "+systems.truth.folder=x"), "truth is the name of a control"),
        (("suite.metrics=[levels]", "system=folder", "systems.folder.folder=nowhere"), "there is no folder nowhere"),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, tmp_path, capsys, overrides, message):
    assert run(*overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_no_system_is_called_as_a_control_is():
    named = {name for task in tasks.CONTROLS.values() for name in task} | {*recordings.CONTROLS}
    assert named == {*config.CONTROLS}


def test_clap_is_fetched_only_where_the_path_says_hub(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(networks, "_fetched", lambda name: asked.append(name) or str(tmp_path))
    with pytest.raises(ValueError, match="no CLAP in"):
        networks.load(["clap"], {"clap": "hub:laion/clap-htsat-fused"}, tmp_path, "cpu")
    assert asked == ["laion/clap-htsat-fused"]
