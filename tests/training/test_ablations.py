"""Each file in configs/ablation changes what it says, and nothing else: in the settings, in the tiny model, in what it
learns from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audiostory import composing
from audiostory.dataset.mixture import Mixture
from audiostory.model.audiostory import AudioStory, gather
from audiostory.model.bridge import Bridge
from audiostory.model.inputs import StoryBatch
from audiostory.model.planner import Written
from audiostory.pipeline import AudioStoryPipeline
from audiostory.story import Event, Instruction, Layout, Storyline, script
from audiostory.training import builders, config
from audiostory.training.stages import choose
from audiostory.weights import ours

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TINY = ("model=tiny", "data=tiny", f"data.folder={ROOT}/data/tiny", "runtime.autocast=none", "logger=none")
RANDOM = (*TINY, "weights=random", "stage.batch.rows=4", "model.flow.condition_dropout=0.0")
ABSENT = "absent"
STAGES = ("stage1_warmup", "stage1", "stage2", "stage3")
FROM_STAGE1 = STAGES[1:]

# By file: the stages it is for, and every setting that it changes there, at the tiny model's size: (before, after).
CHANGES: dict[str, tuple[tuple[str, ...], dict[str, tuple[Any, Any]]]] = {
    "no_reasoning": (STAGES, {"model.script.reasoning": (True, False)}),
    "no_captions": (STAGES, {"model.script.captions": (True, False)}),
    "teacher_audio": (STAGES, {"model.bridge.semantic_teacher_width": (ABSENT, 16)}),
    "residual_supervised": (
        FROM_STAGE1,
        {"model.bridge.residual_teacher_width": (ABSENT, 16), "stage.losses.residual": (ABSENT, 1.0)},
    ),
    "residual_weak": (
        FROM_STAGE1,
        {"model.bridge.residual_teacher_width": (ABSENT, 16), "stage.losses.residual": (ABSENT, 0.1)},
    ),
    "residual_none": (STAGES, {"model.bridge.fusion": (ABSENT, "none")}),
    "residual_1": (STAGES, {"model.num_residual": (2, 1)}),
    "residual_4": (STAGES, {"model.num_residual": (2, 4)}),
    "residual_16": (STAGES, {"model.num_residual": (2, 16)}),
    "fuser_random_init": (STAGES, {"model.bridge.fusion": (ABSENT, "random_init")}),
    "fuser_concatenation": (STAGES, {"model.bridge.fusion": (ABSENT, "concatenation")}),
    "dit_frozen": (FROM_STAGE1, {"stage.parts.dit.learns": (("dit.*",), ())}),
    "dit_single_blocks": (
        FROM_STAGE1,
        {"stage.parts.dit.learns": (("dit.*",), ("dit.transformer.single_transformer_blocks.*",))},
    ),
    "dit_double_blocks": (
        FROM_STAGE1,
        {"stage.parts.dit.learns": (("dit.*",), ("dit.transformer.transformer_blocks.*",))},
    ),
    "understanding_alone": (
        ("stage2",),
        {
            "stage.mixture.clips": (1.0, ABSENT),
            "stage.losses.semantic": (1.0, ABSENT),
            "stage.losses.flow": (0.2, ABSENT),
            **{
                f"stage.parts.{part}.{key}": (value, ABSENT)
                for part in ("bridge", "dit")
                for key, value in {
                    "learns": (f"{part}.*",),
                    "learning_rate": 1e-4,
                    "optimizer": "adamw",
                    "ema": False,
                }.items()
            },
        },
    ),
    "order_at_once": (
        ("stage3",),
        {"stage.start_from": ("stage2", "stage1"), "stage.mixture.questions": (ABSENT, 6.0)},
    ),
}
CASES = [(name, stage) for name, (stages, _) in CHANGES.items() for stage in stages]


# Settings


@cache
def composed(*overrides: str) -> config.RunConfig:
    return composing.build(config.RunConfig, config.compose(CONFIGS, list(overrides)))


def flat(tree: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


def differences(stage: str, *ablations: str, size: str = "tiny") -> dict[str, tuple[Any, Any]]:
    chosen = (f"stage={stage}", f"model={size}", *(TINY[1:] if size == "tiny" else ()), "weights=mini")
    before, after = (flat(asdict(composed(*chosen, *more))) for more in ((), (f"ablation=[{','.join(ablations)}]",)))
    keys = dict.fromkeys([*before, *after])
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def test_there_is_a_claim_for_every_file_and_a_line_in_the_docs():
    files = {path.stem for path in (CONFIGS / "ablation").glob("*.yaml")}
    assert files == set(CHANGES)
    told = (ROOT / "docs/TRAINING.md").read_text(encoding="utf-8").split("## Ablations")[1]
    assert [name for name in files if f"`{name}`" not in told] == []


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_exactly_these_settings_differ(name, stage):
    assert differences(stage, name) == CHANGES[name][1]


def test_losses_that_no_script_without_reasoning_gives_are_not_asked_for():
    taken_out = {key for key in differences("planner", "no_reasoning", size="mini") if key != "model.script.reasoning"}
    assert taken_out == {"stage.losses.reason_count", "stage.losses.reason_content"}


def test_a_teacher_is_as_wide_as_the_models_own_audio_encoder_whatever_its_size():
    for size, width in (("mini", 128), ("audiostory_3b", 1280)):
        assert differences("stage1_warmup", "teacher_audio", size=size) == {
            "model.bridge.semantic_teacher_width": (ABSENT, width)
        }


def test_several_ablations_change_what_each_does():
    expected = {**CHANGES["residual_4"][1], **CHANGES["dit_frozen"][1]}
    assert differences("stage1", "residual_4", "dit_frozen") == expected


# The tiny model


class Built:
    """A stage of the tiny model before its first step.

    A DiT that starts fresh answers nothing, whatever it is told; `moved` makes it listen, the same way in every model.
    """

    def __init__(self, folder: Path, *overrides: str, moved: bool = False):
        chosen = config.compose(CONFIGS, [*RANDOM, f"output={folder}", *overrides])
        self.run = builders.build(composing.build(config.RunConfig, chosen), chosen)
        root = self.run.training.root
        assert isinstance(root, AudioStory)
        self.root = root.eval()  # without LoRA's dropout
        torch.manual_seed(0)
        for parameter in root.dit.parameters() if moved else ():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)

    @property
    def learning(self) -> set[str]:
        return {name for name, parameter in self.root.named_parameters() if parameter.requires_grad}

    def batch(self, source: str) -> StoryBatch:
        mixture = self.run.training.train
        assert isinstance(mixture, Mixture)
        return mixture.sources[list(self.run.config.stage.mixture).index(source)].batch(0)

    def losses(self, batch: StoryBatch) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return dict(self.run.training._losses(self.root, batch).named)

    def texts(self, batch: StoryBatch) -> list[str]:
        sizes = self.run.config.model
        folder, counts = ROOT / "data/tiny/tokenizers", (sizes.num_semantic, sizes.num_residual)
        vocabulary = ours.read_vocabulary(folder, num_semantic=counts[0], num_residual=counts[1])
        rows = zip(batch.ids.tolist(), batch.attention.sum(1).tolist(), strict=True)
        return [vocabulary.decode(ids[:length]) for ids, length in rows]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable[..., Built]:
    @cache
    def made(stage: str, *ablations: str, moved: bool = False) -> Built:
        more = (f"ablation=[{','.join(ablations)}]",) if ablations else ()
        return Built(tmp_path_factory.mktemp("run"), f"stage={stage}", *more, "stage.start_from=null", moved=moved)

    return made


# By file: parameters that only the changed model has, that only the usual one has, and that start otherwise in both.
SEMANTIC_HEAD = {"bridge.semantic_head.weight", "bridge.semantic_head.bias"}
RESIDUAL_HEAD = {"bridge.residual_head.weight", "bridge.residual_head.bias"}
RESIDUAL_PROJECTOR = {f"bridge.residual_projector.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")}
FUSER = {f"bridge.fuser.{what}" for what in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
PARAMETERS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "teacher_audio": (SEMANTIC_HEAD, set(), set()),
    "residual_supervised": (RESIDUAL_HEAD, set(), set()),
    "residual_weak": (RESIDUAL_HEAD, set(), set()),
    "residual_none": (set(), RESIDUAL_PROJECTOR | FUSER, set()),
    "fuser_concatenation": (set(), FUSER, set()),
    "fuser_random_init": (set(), set(), {"bridge.fuser.out_proj.weight"}),
}
ORDERS = {"order_at_once"}
BUILT = [
    (name, "stage1" if "stage1" in stages else "stage2") for name, (stages, _) in CHANGES.items() if name not in ORDERS
]


@pytest.mark.parametrize(("name", "stage"), BUILT)
def test_exactly_these_parameters_are_other_ones(build, name, stage):
    usual, changed = (dict(one.root.named_parameters()) for one in (build(stage), build(stage, name)))
    more, fewer, otherwise = PARAMETERS.get(name, (set(), set(), set()))
    assert set(changed) - set(usual) == more
    assert set(usual) - set(changed) == fewer
    shared = set(usual) & set(changed)
    assert {key for key in shared if not torch.equal(usual[key], changed[key])} == otherwise


def begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefixes)


RESTS: dict[str, Callable[[str], bool]] = {
    "dit_frozen": begins("dit."),
    "dit_single_blocks": lambda name: begins("dit.")(name) and "dit.transformer.single_transformer_blocks." not in name,
    "dit_double_blocks": lambda name: begins("dit.")(name) and "dit.transformer.transformer_blocks." not in name,
    "understanding_alone": begins("dit.", "bridge."),
}


@pytest.mark.parametrize(("name", "stage"), BUILT)
def test_what_learns_is_what_learnt_before_but_for_what_the_file_adds_removes_or_rests(build, name, stage):
    usual, changed = build(stage).learning, build(stage, name).learning
    more, fewer, _ = PARAMETERS.get(name, (set(), set(), set()))
    rests = RESTS.get(name, lambda _: False)
    assert changed == (usual | more) - fewer - {key for key in usual if rests(key)}
    assert changed != usual or name not in RESTS


SCRIPTS = ("no_reasoning", "no_captions", "residual_1", "residual_4", "residual_16")


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in (*SCRIPTS, "understanding_alone", *ORDERS)])
def test_batches_are_the_same_but_for_what_is_compared_with(build, name):
    usual, changed = build("stage1").batch("clips"), build("stage1", name).batch("clips")
    other = {
        "teacher_audio": {"teacher", "clip_features"},
        "residual_supervised": {"clip_features"},
        "residual_weak": {"clip_features"},
    }
    found = {key for key, value in vars(usual).items() if not same(value, vars(changed)[key])}
    assert found == other.get(name, set())
    assert (changed.clip_features is not None) == ("clip_features" in found)
    assert (changed.teacher is None) == ("teacher" in found)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return type(one) is type(other) and one == other


# Scripts


def by_row(built: Built, source: str) -> dict[str, str]:
    batch = built.batch(source)
    return dict(zip(batch.sample_ids, built.texts(batch), strict=True))


def bare(text: str) -> str:
    """Without the residual tokens' numbers."""
    return re.sub(r"(<aud_\d+>)+", "<aud_*>", text)


LEFT_OUT = {
    "no_reasoning": (r"(?s)<\|think\|>.*?<\|/think\|>", "<|think|><|/think|>"),
    "no_captions": (r"<\|gen\|>[^<]*<timestamp>", "<|gen|><timestamp>"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize(("stage", "source"), [("stage1", "clips"), ("stage3", "stories"), ("stage3", "continuations")])
def test_scripts_lack_what_the_layout_leaves_out_and_nothing_else(build, name, stage, source):
    usual, changed = (by_row(one, source) for one in (build(stage), build(stage, name)))
    expected = {row: re.sub(*LEFT_OUT[name], text) for row, text in usual.items()}
    assert changed == expected
    assert changed != usual


@pytest.mark.parametrize("name", LEFT_OUT)
def test_answers_have_no_layout(build, name):
    assert by_row(build("stage2"), "questions") == by_row(build("stage2", name), "questions")


@pytest.mark.parametrize("number", [1, 4, 16])
def test_events_have_as_many_residual_tokens_as_said(build, number):
    usual, changed = (by_row(one, "clips") for one in (build("stage1"), build("stage1", f"residual_{number}")))
    assert {row: bare(text) for row, text in changed.items()} == {row: bare(text) for row, text in usual.items()}
    assert {len(re.findall(r"<aud_\d+>", text)) for text in changed.values()} == {number}
    batch = build("stage1", f"residual_{number}").batch("clips")
    assert batch.residual_slots.shape[1] == number


# Losses


def values(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("teacher_audio", {"semantic"}),
        ("residual_supervised", {"residual"}),
        ("residual_weak", {"residual"}),
        ("dit_frozen", set()),
        ("dit_single_blocks", set()),
        ("dit_double_blocks", set()),
        ("residual_none", set()),  # the usual fuser starts at zero, so it has said nothing yet
        ("fuser_concatenation", {"flow"}),
        ("fuser_random_init", {"flow"}),
    ],
)
def test_exactly_these_losses_differ_at_the_start(build, name, other):
    usual, changed = build("stage1", moved=True), build("stage1", name, moved=True)
    before, after = (values(built.losses(built.batch("clips"))) for built in (usual, changed))
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == other


def test_the_weak_target_is_the_supervised_one_and_weighs_less(build):
    strong, weak = (build("stage1", f"residual_{name}") for name in ("supervised", "weak"))
    assert values(strong.losses(strong.batch("clips"))) == values(weak.losses(weak.batch("clips")))
    weights = [built.run.config.stage.losses["residual"] for built in (strong, weak)]
    assert weights == [1.0, 0.1]


@pytest.mark.parametrize(
    ("name", "absent"),
    [("no_reasoning", {"reason_count", "reason_content"}), ("no_captions", set())],
)
def test_losses_of_what_is_left_out_are_absent_and_the_rest_is_there(build, name, absent):
    built = build("stage3", name)
    batch = built.batch("stories")
    losses = built.run.training._losses(built.root, batch)
    parts = {"reason_count", "reason_content", "reason_caption"}
    assert set(losses.absent) == absent
    assert set(losses.named) == {"semantic", "text", "flow", "reason", *parts - absent}
    total = sum(losses.named[part].item() for part in parts - absent)
    assert losses.named["reason"].item() == pytest.approx(total)
    assert losses.weighted(built.run.config.stage.losses).isfinite()


def test_the_planners_own_stage_does_without_reasoning():
    stage = composed("stage=planner", "model=mini", "ablation=no_reasoning").stage
    assert dict(stage.losses) == {"reason_caption": 0.5, "text": 0.2}


# Gradients


def reached(built: Built, loss: str, source: str = "clips") -> set[str]:
    """The beginnings of all parameters' names that a loss has a gradient for."""
    built.root.zero_grad()
    built.losses(built.batch(source))[loss].backward()
    names = [name for name, one in built.root.named_parameters() if one.grad is not None and one.grad.any()]
    return {".".join(name.split(".")[:2]) if not name.startswith("planner.") else "planner" for name in names}


def of_bridge(names: set[str]) -> set[str]:
    return {name.removeprefix("bridge.") for name in names if name.startswith("bridge.")}


def test_each_target_teaches_the_tokens_it_is_for(build):
    usual, audio, residual = build("stage1"), build("stage1", "teacher_audio"), build("stage1", "residual_supervised")
    assert reached(usual, "semantic") == {"planner", "bridge.semantic_projector"}
    assert reached(audio, "semantic") == {"planner", "bridge.semantic_projector", "bridge.semantic_head"}
    assert reached(residual, "semantic") == {"planner", "bridge.semantic_projector"}
    assert reached(residual, "residual") == {"planner", "bridge.residual_projector", "bridge.residual_head"}


def test_in_the_warm_up_the_head_learns_with_its_projector(build):
    usual, audio = build("stage1_warmup"), build("stage1_warmup", "teacher_audio")
    assert {name for name in usual.learning if name.startswith("bridge.")} == {
        f"bridge.semantic_projector.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")
    }
    assert audio.learning - usual.learning == SEMANTIC_HEAD
    assert reached(audio, "semantic") == {"planner", "bridge.semantic_projector", "bridge.semantic_head"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ((), {"semantic_projector", "fuser"}),  # at its start the fuser hands nothing back to the residual tokens
        (("teacher_audio",), {"semantic_projector", "fuser"}),
        (("residual_supervised",), {"semantic_projector", "fuser"}),
        (("residual_none",), {"semantic_projector"}),
        (("fuser_random_init",), {"semantic_projector", "residual_projector", "fuser"}),
        (("fuser_concatenation",), {"semantic_projector", "residual_projector"}),
    ],
)
def test_flow_teaches_the_tokens_that_reach_the_dit(build, name, expected):
    built = build("stage1", *name, moved=True)
    assert of_bridge(reached(built, "flow")) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dit_frozen", set()),
        ("dit_single_blocks", {"single_transformer_blocks"}),
        ("dit_double_blocks", {"transformer_blocks"}),
    ],
)
def test_flow_passes_through_a_dit_that_rests(build, name, expected):
    built = build("stage1", name, moved=True)
    names = reached(built, "flow")
    assert {"planner", "bridge.semantic_projector"} <= names
    learnt = {
        key.split(".")[2]
        for key, one in built.root.named_parameters()
        if key.startswith("dit.") and one.grad is not None
    }
    assert learnt == expected


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "num_tokens"), [((), 4), (("fuser_concatenation",), 6), (("residual_none",), 4), (("residual_16",), 4)]
)
def test_the_condition_has_as_many_tokens_as_said(build, name, num_tokens):
    built = build("stage1", *name)
    batch = built.batch("clips")
    fused = built.root.bridge(gather(built.root.planner.states(batch.ids), batch)).fused
    assert fused.shape[1:] == built.root.bridge.unconditional.shape == (num_tokens, 16)


# What is told with the model


STORY = Storyline(
    summary="a walk",
    events=(
        Event(caption="a dog barks", seconds=1.2, story_detail="Hello."),
        Event(caption="rain", seconds=1.0, start=1.2),
    ),
)


@pytest.mark.parametrize(
    ("name", "layout"),
    [((), Layout()), (("no_reasoning",), Layout(reasoning=False)), (("no_captions",), Layout(captions=False))],
)
def test_an_exported_model_tells_in_the_layout_that_it_learnt(build, tmp_path, name, layout):
    build("stage3", *name).run.training.hooks.export(tmp_path / "export")
    pipeline = AudioStoryPipeline.from_pretrained(tmp_path / "export")
    assert pipeline.settings.script == layout
    asked = Instruction(text="a walk", total_seconds=2.2)
    ids = script.write(asked, STORY, pipeline.vocabulary, layout=layout).ids
    told = pipeline.plan_from_storyline(STORY, asked)
    written = Written(ids=ids, bridge=told.bridge_tokens, finished=True)
    plan = pipeline.read_plan(written, asked)
    assert plan.problems == ()
    assert [event.caption for event in plan.storyline.events] == ["a dog barks", "rain"]
    assert plan.storyline.events[0].story_detail == ("Hello." if layout.reasoning else "")


def test_the_plan_of_a_given_story_is_written_in_the_models_layout(build, monkeypatch, tmp_path):
    build("stage3", "no_captions").run.training.hooks.export(tmp_path / "export")
    pipeline = AudioStoryPipeline.from_pretrained(tmp_path / "export")
    layouts: list[Layout] = []
    write = script.write
    monkeypatch.setattr(script, "write", lambda *a, **more: layouts.append(more["layout"]) or write(*a, **more))
    pipeline.plan_from_storyline(STORY)
    assert layouts == [Layout(captions=False)]


# What is refused


def trial(folder: Path, *overrides: str) -> Built:
    return Built(folder / "run", "stage=stage1", *overrides, "stage.start_from=null")


def test_a_residual_loss_without_a_target_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"learns by residual, but nothing teaches .* model\.bridge\.residual_teacher"):
        trial(tmp_path, "+stage.losses.residual=1.0")


def test_clips_that_nobody_listened_to_are_refused(tmp_path):
    data = Path(shutil.copytree(ROOT / "data/tiny", tmp_path / "data"))
    index = data / "latents/clips/index.json"
    told = json.loads(index.read_text())
    index.write_text(json.dumps({key: value for key, value in told.items() if key != "clip_encoder"}))
    with pytest.raises(ValueError, match=r"holds no features of the clips; run .* --clip_encoder"):
        trial(tmp_path, "ablation=teacher_audio", f"data.folder={data}")
    index.write_text(json.dumps({**told, "num_clip_tokens": 7}))
    with pytest.raises(ValueError, match=r"heard as 7 means of width 16, and the bridge is taught by 4 of width 16"):
        trial(tmp_path, "ablation=teacher_audio", f"data.folder={data}")


# Orders of the stages


def one_step(runs: Path, *overrides: str) -> Built:
    quick = ("stage.steps=1", "stage.optimizer.warmup_steps=0", "stage.pace.listen=0", "stage.pace.validate=0")
    stage = overrides[0].removeprefix("stage=")
    made = Built(runs / stage, *overrides, *quick, f"runs={runs}", f"model.tokenizers={ROOT}/data/tiny/tokenizers")
    assert made.run.start()
    return made


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> dict[str, Built]:
    """Bridge, then understanding by itself, then the joint training, then the rest at once."""
    runs = tmp_path_factory.mktemp("runs")
    bridge = one_step(runs, "stage=stage1_warmup")
    understanding = one_step(runs, "stage=stage2", "ablation=understanding_alone", "stage.start_from=stage1_warmup")
    joint = one_step(runs, "stage=stage1", "stage.start_from=stage2")
    at_once = one_step(runs, "stage=stage3", "ablation=order_at_once")
    return {"bridge": bridge, "understanding": understanding, "joint": joint, "at_once": at_once}


def test_understanding_by_itself_hands_the_bridge_on_as_it_is(orders):
    exports = {name: Path(built.run.config.output) / "export" for name, built in orders.items()}
    before, after = (ours.read_component(exports[name], "bridge") for name in ("bridge", "understanding"))
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))
    planners = [ours.read_component(exports[name], "planner") for name in ("bridge", "understanding")]
    pairs = zip(*(planner.parameters() for planner in planners), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)
    assert not (exports["understanding"] / "dit").exists()  # no stage has touched it yet
    assert (exports["understanding"] / "listener_projector").is_dir()


def test_the_stage_after_it_goes_on_from_all_that_was_made(orders):
    origins = orders["joint"].run.about["components"]
    assert {name for name, origin in origins.items() if origin.endswith("stage2/export")} == {
        "planner",
        "bridge",
        "listener_projector",
        "audio_encoder",
    }


def test_stories_at_once_start_from_stage_one_and_hear_questions_too(orders):
    built = orders["at_once"]
    assert set(built.run.config.stage.mixture) == {"stories", "continuations", "questions"}
    assert built.run.about["components"]["bridge"].endswith("stage1/export")
    assert set(built.losses(built.batch("questions"))) == {"text"}


@pytest.mark.parametrize("ablation", sorted(CHANGES))
def test_the_minis_own_parts_of_the_bridge_are_there_in_every_ablation(ablation):
    """Its recipe names them apart (configs/recipe), so a pattern could come to match nothing."""
    stages, _ = CHANGES[ablation]
    for stage in set(stages) & {"stage1", "stage2", "stage3"}:
        run = composed(f"stage={stage}", "model=mini", f"ablation=[{ablation}]")
        sizes = {"num_semantic": run.model.num_semantic, "num_residual": run.model.num_residual}
        names = [f"bridge.{name}" for name, _ in Bridge(**run.model.bridge, **sizes).named_parameters()]
        parts = {name: part for name, part in run.stage.parts.items() if part.learns[:1] and "bridge" in part.learns[0]}
        learnt = [name for part in choose(replace(run.stage, parts=parts), names).values() for name in part]
        assert sorted(learnt) == (sorted(names) if parts else [])
        assert bool(parts) == (ablation != "understanding_alone")
