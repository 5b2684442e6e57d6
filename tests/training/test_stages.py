from pathlib import Path

import pytest
from torch import nn

from audiostory import composing
from audiostory.model import tiny
from audiostory.model.audiostory import AudioStory
from audiostory.model.codec import Codec
from audiostory.model.planner import LoraSettings
from audiostory.training import config, optim
from audiostory.training.stages import Part, Stage, choose

CONFIGS = Path(__file__).parents[2] / "configs"


def stage_of(name: str) -> Stage:
    return composing.build(config.RunConfig, config.compose(CONFIGS, [f"stage={name}", "model=mini"])).stage


def root_of(stage: Stage) -> nn.Module:
    if stage.root == "codec":
        return Codec(
            front="vocoder",
            sample_rate=16000,
            audio_channels=1,
            encoder_hidden_size=16,
            downsampling_ratios=(2, 2),
            channel_multiples=(1, 2),
            decoder_channels=16,
            latent_channels=8,
        )
    if stage.root == "text_to_audio":
        return tiny.text_to_audio()
    if stage.root == "hearing":
        return tiny.hearing()
    planner = tiny.planner()
    if stage.lora:
        planner.add_lora(LoraSettings(rank=2))
    listens = any(part.learns[0].startswith("listener_projector") for part in stage.parts.values())
    return AudioStory(planner, tiny.bridge(), tiny.dit(), tiny.listener_projector() if listens else None)


def adapters(name: str) -> bool:
    opened = (
        ".lora_A." in name or ".lora_B." in name or ".modules_to_save." in name or name.endswith("embed_tokens.weight")
    )
    return name.startswith("planner.") and opened


LEARNS = {
    "codec": lambda name: True,
    "tangoflux": lambda name: True,
    "planner": lambda name: name.startswith("planner."),
    "reading": lambda name: name.startswith("planner."),
    "hearing": lambda name: not name.startswith("text_encoder.") and "embed_positions" not in name,
    "stage1_warmup": lambda name: adapters(name) or name.startswith("bridge.semantic_projector."),
    "stage1": lambda name: adapters(name) or name.startswith(("bridge.", "dit.")),
    "stage2": lambda name: adapters(name) or name.startswith(("bridge.", "dit.", "listener_projector.")),
    "stage3": lambda name: adapters(name) or name.startswith(("bridge.", "dit.", "listener_projector.")),
}


@pytest.mark.parametrize("name", LEARNS)
def test_exactly_the_parameters_of_a_stage_learn(name):
    stage = stage_of(name)
    root = root_of(stage)
    optim.open_parts(root, stage)
    learning = {parameter for parameter, tensor in root.named_parameters() if tensor.requires_grad}
    assert learning == {parameter for parameter, _ in root.named_parameters() if LEARNS[name](parameter)}
    assert learning


@pytest.mark.parametrize("name", LEARNS)
def test_the_optimiser_holds_each_learning_parameter_once_at_its_parts_rate(name):
    stage = stage_of(name)
    root = root_of(stage)
    parts = optim.open_parts(root, stage)
    optimizer = optim.optimizers(root, parts, stage)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == sum(tensor.requires_grad for tensor in root.parameters())
    for group in optimizer.param_groups:
        assert group["lr"] == stage.parts[group["part"]].learning_rate
        assert all((tensor.ndim > 1) == (group["weight_decay"] > 0) for tensor in group["params"]) or name == "codec"


def test_there_is_a_claim_for_every_stage():
    assert set(LEARNS) == {path.stem for path in (CONFIGS / "stage").glob("*.yaml")}


@pytest.mark.parametrize("name", [name for name in LEARNS if stage_of(name).root == "audiostory"])
def test_each_weighted_loss_is_one_the_model_computes(name):
    stage = stage_of(name)
    losses = root_of(stage).losses(tiny.story_batch(), wanted=set(stage.losses))
    assert set(losses.named) == set(stage.losses) - {"answer"}  # stories answer nothing
    assert set(losses.absent) <= {"answer"}


def stage_with(**parts: tuple[str, ...]) -> Stage:
    made = {name: Part(learns=patterns, learning_rate=1.0) for name, patterns in parts.items()}
    return Stage(name="s", teaches="", root="codec", parts=made, losses={}, mixture={}, steps=1)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'dti\.\*' of part 'a' matches no parameter.*dit\.weight"):
        choose(stage_with(a=("dti.*",)), ["dit.weight"])


def test_a_parameter_belongs_to_one_part():
    with pytest.raises(ValueError, match=r"'a' and 'b' both learn dit\.weight"):
        choose(stage_with(a=("dit.*",), b=("*.weight",)), ["dit.weight"])


def test_two_patterns_of_one_part_may_overlap():
    assert choose(stage_with(a=("dit.*", "*.weight")), ["dit.weight", "x.bias"]) == {"a": ["dit.weight"]}
