import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from audiostory import composing
from audiostory.training import config

ROOT = Path(__file__).parents[2]
STAGES = sorted(path.stem for path in (ROOT / "configs/stage").glob("*.yaml"))


def composed(*overrides: str) -> config.RunConfig:
    return composing.build(config.RunConfig, config.compose(ROOT / "configs", overrides))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("model", ["mini", "tiny"])
def test_every_stage_composes_with_every_model(stage, model):
    run = composed(f"stage={stage}", f"model={model}")
    assert run.stage.name == stage
    assert run.output == f"runs/{stage}"
    assert set(run.stage.mixture) <= set(run.data.sources)
    assert {run.stage.start_from} <= {None, *STAGES}
    named = {getattr(run.weights, part) for part in ("planner", "dit", "codec", "text_encoder")}
    assert named <= {None, *STAGES}


def test_the_files_hold_the_recipe_of_the_paper():
    stages = {name: composed(f"stage={name}", "model=tiny").stage for name in STAGES}
    assert stages["stage1_warmup"].losses == {"semantic": 1.0}
    assert stages["stage1"].losses == stages["stage2"].losses == {"semantic": 1.0, "text": 1.0, "flow": 0.2}
    assert stages["stage3"].losses == {"semantic": 1.0, "text": 1.0, "flow": 0.2, "reason": 0.4}
    rates = {name: {part: p.learning_rate for part, p in stage.parts.items()} for name, stage in stages.items()}
    assert rates["stage1"]["planner"] == rates["stage1"]["dit"] == 1e-3
    assert rates["stage2"]["planner"] == rates["stage2"]["dit"] == 1e-4
    assert (rates["stage3"]["planner"], rates["stage3"]["dit"]) == (2e-5, 5e-5)


def test_a_small_model_brings_its_own_recipe_and_the_command_line_wins():
    assert composed("stage=stage1", "model=mini").stage.steps == 2500
    assert composed("stage=stage1", "model=tiny").stage.steps == 44000
    assert composed("stage=stage1", "model=mini", "stage.steps=7").stage.steps == 7
    rested = composed("stage=stage1", "model=mini", "~stage.parts.dit").stage
    assert set(rested.parts) == {"planner", "bridge", "residual"}


def test_every_default_can_be_overridden_without_a_plus():
    run = composed("stage=codec", "stage.pace.save=3", "runtime.minutes=1.5", "seed=4")
    assert (run.stage.pace.save, run.runtime.minutes, run.seed) == (3, 1.5, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.stesp=3", "there is no setting stage.stesp; did you mean steps?"),
        ("+stage.optimizer.warmup=3", "there is no setting stage.optimizer.warmup; did you mean warmup_steps?"),
        ("stage.steps=many", "stage.steps must be int, not 'many'"),
        ("stage.optimizer.betas=[0.9]", "stage.optimizer.betas needs 2 values"),
        ("logger=paper", "Could not find 'logger/paper'"),
        ("logger.kind=paper", "logger.kind must be none or tensorboard or wandb"),
        ("stage.losses=3", "stage.losses must be"),
        ("runtime=gpuu", "Could not find 'runtime/gpuu'"),
        ("seed", "missing EQUAL"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        composed("stage=codec", override)


def test_a_setting_without_a_value_is_asked_for():
    @dataclass(frozen=True, kw_only=True)
    class Needy:
        steps: int

    with pytest.raises(ValueError, match=r"no value for stage\.steps"):
        composing.build(Needy, {}, "stage")


@pytest.mark.parametrize(
    "arguments", [["stage=codec", "stage.stesp=3"], ["model=mini"], ["stage=codec", "stage.steps=many"]]
)
def test_the_command_ends_with_code_2_and_no_traceback(arguments, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2
    assert "train.py: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_null_takes_a_named_thing_out():
    run = composed(
        "stage=stage3", "stage.losses.reason=null", "stage.parts.dit=null", "stage.mixture.continuations=null"
    )
    assert set(run.stage.losses) == {"semantic", "text", "answer", "flow"}
    assert set(run.stage.parts) == {"planner", "bridge", "residual", "listener"}
    assert "continuations" not in run.stage.mixture
    assert composed("stage=stage3", "model=tiny").model.dit["fixed_frames"] is None
