"""Where a stage's parts come from."""

from pathlib import Path

import golden_weights
import pytest
import torch

from audiostory import composing
from audiostory.model import tiny
from audiostory.training import config
from audiostory.training.components import FRESH, Components
from audiostory.weights import ours
from audiostory.weights.origins import Origin

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = ("model=tiny", "data=tiny", f"data.folder={CONFIGS.parent}/data/tiny")


def components(*overrides: str) -> Components:
    return Components(composing.build(config.RunConfig, config.compose(CONFIGS, [*TINY, *overrides])))


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """In an empty folder, what a stage called `before` left: a bridge, and a planner with its vocabulary."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/before/export"
    tiny.bridge(seed=5).save_pretrained(folder / "bridge")
    tiny.planner(seed=5).save_pretrained(folder / "planner")
    ours.write_vocabulary(folder, tiny.vocabulary())
    return folder


def test_the_stage_before_comes_first_then_the_weights_then_nothing(exported):
    tiny.bridge(seed=6).save_pretrained("elsewhere/bridge")
    tiny.dit(seed=6).save_pretrained("elsewhere/dit")
    parts = components(
        "stage=stage1", "stage.start_from=before", "weights.bridge=./elsewhere", "weights.dit=./elsewhere"
    )
    assert torch.equal(parts.get("bridge").unconditional, tiny.bridge(seed=5).unconditional)
    assert torch.equal(parts.get("dit").pooled.weight, tiny.dit(seed=6).pooled.weight)
    parts.get("codec")
    assert parts.origins == {"bridge": "runs/before/export", "dit": "elsewhere", "codec": FRESH}
    assert len(parts.vocabulary) == len(tiny.vocabulary())


def test_what_a_stage_makes_itself_starts_fresh(exported):
    parts = components("stage=codec", "weights=mini")
    assert parts.run.weights.codec == "codec"
    parts.get("codec")
    assert parts.origins == {"codec": FRESH}


def test_a_fresh_part_depends_on_the_seed_of_the_run_alone():
    weights = [
        components("stage=stage1", f"seed={seed}").get("bridge").semantic_projector[0].weight for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_that_is_not_there_says_what_to_train(exported):
    with pytest.raises(
        ValueError, match=r"no runs/never/export; train that stage first \(python train\.py stage=never\)"
    ):
        components("stage=stage1", "stage.start_from=never").get("bridge")
    with pytest.raises(ValueError, match="there is no folder never"):
        components("stage=stage1", "stage.start_from=./never").get("bridge")


def test_the_released_checkpoint_gives_all_but_the_audio_encoder(tmp_path):
    folders = golden_weights.folders(golden_weights.RECORDING.rebuild(tmp_path))
    origin = Origin(folders.model, folders.tangoflux)
    assert [name for name in ours.CLASSES if not origin.holds(name)] == ["audio_encoder"]
    assert origin.read("planner").qwen.config.hidden_size == origin.read("bridge").config["planner_width"]
    found = origin.vocabulary(num_semantic=1, num_residual=1)
    assert found is not None
    assert len(found) == len(golden_weights.model().vocabulary)


def test_a_plain_language_model_gets_rows_for_the_new_tokens(tmp_path):
    tiny.planner().save_pretrained(tmp_path)
    vocabulary = tiny.vocabulary()
    vocabulary.tokenizer.save(str(tmp_path / "tokenizer.json"))
    origin = Origin(tmp_path)
    assert origin.holds("planner")
    assert not origin.holds("text_encoder")
    assert origin.read("planner", vocabulary).qwen.config.vocab_size == len(vocabulary)
    with pytest.raises(ValueError, match="holds no dit"):
        origin.read("dit")


def test_an_ablation_is_asked_of_the_bridge_that_the_stage_before_made(exported):
    parts = components("stage=stage1", "stage.start_from=before", "ablation=fuser_concatenation")
    found, before = parts.get("bridge"), tiny.bridge(seed=5)
    assert found.fusion == "concatenation"
    assert torch.equal(found.semantic_projector[0].weight, before.semantic_projector[0].weight)
    assert parts.origins == {"bridge": "runs/before/export (fusion zero_init -> concatenation)"}
    unasked = components("stage=stage1", "stage.start_from=before")
    assert torch.equal(unasked.get("bridge").fuser.in_proj_weight, before.fuser.in_proj_weight)
    assert unasked.origins == {"bridge": "runs/before/export"}


def test_what_an_ablation_adds_to_a_bridge_starts_as_the_runs_seed_has_it(exported):
    asked = ("stage=stage1", "stage.start_from=before", "ablation=residual_supervised")
    heads = [components(*asked, f"seed={seed}").get("bridge").residual_head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_what_the_stage_before_exported_is_handed_on(exported):
    parts = components("stage=stage2", "stage.start_from=before")
    assert [name for name in ("planner", "bridge", "dit") if parts.handed_on(name)] == ["planner", "bridge"]
    assert not components("stage=stage2", "stage.start_from=null").handed_on("bridge")
