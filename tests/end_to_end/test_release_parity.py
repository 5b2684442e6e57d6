"""From the recorded script and states to the sound that the released system wrote: our whole rendering walk at once.

The planner's part of the walk is compared in tests/model/test_planner.py.
"""

from __future__ import annotations

from typing import TypeVar

import golden_weights
import numpy as np
import pytest
import torch
from torch import nn

from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.inputs import BridgeTokens
from audiostory.model.planner import Planner, PlannerConfig
from audiostory.pipeline import AudioStoryPipeline, Plan
from audiostory.story import Instruction, Vocabulary, script
from audiostory.weights.ours import Settings

CONDITIONING = golden_weights.data("conditioning")
SCRIPTED = golden_weights.data("generate_scripted")


Part = TypeVar("Part", bound=nn.Module)


def with_weights(part: Part, prefixes: dict[str, str], **more: torch.Tensor) -> Part:
    part.load_state_dict({**golden_weights.renamed(golden_weights.UNIFIED, prefixes), **more})
    return part.eval()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return golden_weights.vocabulary()


@pytest.fixture(scope="module")
def pipeline(vocabulary) -> AudioStoryPipeline:
    bridge = with_weights(
        Bridge(planner_width=64, condition_width=1024, num_semantic=8, num_residual=4, feature_scale=10.0),
        {
            "seedx.projector.": "semantic_projector.",
            "seedx.audio_projector.": "residual_projector.",
            "multihead_attention.": "fuser.",
        },
        unconditional=CONDITIONING["cond_stack"][0],
    )
    dit = with_weights(
        VelocityDiT(num_layers=1, num_single_layers=1, num_attention_heads=1, fixed_frames=40, frame_rate=12.5),
        {
            "tangoflux.transformer.": "transformer.",
            "tangoflux.fc.0.": "pooled.",
            "tangoflux.duration_emebdder.time_positional_embedding.0.weights": "duration_embedder.frequencies",
            "tangoflux.duration_emebdder.time_positional_embedding.1.": "duration_embedder.projection.",
        },
    )
    idle = Planner.random(PlannerConfig(vocab_size=388, hidden=64, layers=1, heads=4, kv_heads=2, intermediate=96))
    return AudioStoryPipeline(
        idle, vocabulary, bridge, dit, golden_weights.codec(), Settings(guidance=4.0, crossfade_seconds=0.3)
    )


@pytest.fixture(scope="module")
def plan(vocabulary) -> Plan:
    reading = script.read(SCRIPTED["generated_ids"].tolist(), vocabulary, total_seconds=3.6)
    return Plan(
        instruction=Instruction(text="rain and dogs", total_seconds=3.6),
        storyline=script.reconcile(reading.storyline, total_seconds=3.6, max_event_seconds=30.0)[0],
        bridge_tokens=BridgeTokens(semantic=SCRIPTED["hidden_semantic"], residual=SCRIPTED["hidden_residual"]),
        problems=(),
    )


def test_each_clip_and_the_story_are_the_recorded_ones(pipeline, plan):
    recorded = golden_weights.data("end_to_end")
    told = pipeline.render(plan, steps=6, shared_noise=True, progress=False)
    resampled = told.resample(320)
    for index in range(3):
        np.testing.assert_allclose(told.clips[index].samples, recorded[f"wave_trimmed_{index}"], atol=5e-5)
        np.testing.assert_allclose(resampled.clips[index].samples, recorded[f"wave_resampled_{index}"], atol=5e-5)
    np.testing.assert_allclose(resampled.story.samples, recorded["concat"], atol=5e-5)


def test_the_story_is_what_the_releases_own_command_wrote(pipeline, plan):
    recorded = golden_weights.data("inference_main")
    told = pipeline.render(plan, steps=50, shared_noise=True, progress=False).resample(320)
    np.testing.assert_allclose(told.story.samples, recorded["wave"], atol=5e-5)
