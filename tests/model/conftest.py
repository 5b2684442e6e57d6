"""Our parts with the weights that the recorded numbers were made with. All tests share them: leave them as they are."""

from __future__ import annotations

import golden_weights
import pytest
from tokenizers import Tokenizer
from transformers import T5Config

from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.text_encoder import TextEncoder


@pytest.fixture(scope="session")
def golden_bridge() -> Bridge:
    bridge = Bridge(planner_width=64, condition_width=1024, num_semantic=8, num_residual=4, feature_scale=10.0)
    weights = golden_weights.renamed(
        golden_weights.UNIFIED,
        {
            "seedx.projector.": "semantic_projector.",
            "seedx.audio_projector.": "residual_projector.",
            "multihead_attention.": "fuser.",
        },
    )
    bridge.load_state_dict({**weights, "unconditional": bridge.unconditional})
    return bridge.eval()


@pytest.fixture(scope="session")
def golden_dit() -> VelocityDiT:
    dit = VelocityDiT(num_layers=1, num_single_layers=1, num_attention_heads=1, fixed_frames=40)
    weights = golden_weights.renamed(
        golden_weights.UNIFIED,
        {
            "tangoflux.transformer.": "transformer.",
            "tangoflux.fc.0.": "pooled.",
            "tangoflux.duration_emebdder.time_positional_embedding.0.weights": "duration_embedder.frequencies",
            "tangoflux.duration_emebdder.time_positional_embedding.1.": "duration_embedder.projection.",
        },
    )
    dit.load_state_dict(weights)
    return dit.eval()


@pytest.fixture(scope="session")
def golden_text_encoder() -> TextEncoder:
    config = T5Config.from_json_file(golden_weights.GOLDEN / "t5_config.json")
    tokenizer = Tokenizer.from_file(str(golden_weights.GOLDEN / "t5_tokenizer.json"))
    encoder = TextEncoder.random(config, tokenizer)
    encoder.model.load_state_dict(golden_weights.tensors(golden_weights.TEXT_ENCODER))
    return encoder.eval()
