"""The bridge against the recorded fusion, and what training and playing rely on."""

from __future__ import annotations

from pathlib import Path

import golden_weights
import pytest
import torch
from torch.testing import assert_close

from audiostory.model.bridge import Bridge
from audiostory.model.inputs import BridgeTokens


def small_bridge(feature_scale: float = 1.0) -> Bridge:
    torch.manual_seed(0)
    return Bridge(
        planner_width=16, condition_width=32, num_semantic=6, num_residual=3, feature_scale=feature_scale, num_heads=4
    )


def small_tokens(num_events: int = 2) -> BridgeTokens:
    torch.manual_seed(1)
    return BridgeTokens(semantic=torch.randn(num_events, 6, 16), residual=torch.randn(num_events, 3, 16))


def golden_tokens() -> BridgeTokens:
    golden = golden_weights.data("fuser")
    return BridgeTokens(semantic=golden["hidden_semantic"], residual=golden["hidden_residual"])


@torch.no_grad()
def test_projections_are_the_releases(golden_bridge: Bridge):
    golden = golden_weights.data("fuser")
    assert_close(
        golden_bridge.semantic_projector(golden["hidden_semantic"]), golden["proj_semantic"], rtol=0, atol=1e-5
    )
    assert_close(
        golden_bridge.residual_projector(golden["hidden_residual"]), golden["proj_residual"], rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_fusion_is_the_releases_inference(golden_bridge: Bridge):
    golden = golden_weights.data("fuser")
    bridged = golden_bridge(golden_tokens())
    assert_close(bridged.semantic_prediction, golden["proj_semantic"], rtol=0, atol=1e-5)
    assert_close(bridged.fused, golden["fused_inference"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_release_training_formula_is_the_releases_training(golden_bridge: Bridge, monkeypatch: pytest.MonkeyPatch):
    golden = golden_weights.data("fuser")
    monkeypatch.setattr(golden_bridge, "release_training_formula", True)
    bridged = golden_bridge(golden_tokens())
    assert_close(bridged.semantic_prediction, golden["proj_semantic"] / 10, rtol=0, atol=1e-5)
    assert_close(bridged.fused, golden["fused_training"], rtol=0, atol=1e-5)


def test_the_two_formulas_agree_only_without_a_scale():
    tokens = small_tokens()
    for scale, agree in ((1.0, True), (10.0, False)):
        ours = small_bridge(scale)
        torch.nn.init.normal_(ours.fuser.out_proj.weight)
        releases = Bridge.from_config(ours.config, release_training_formula=True)
        releases.load_state_dict(ours.state_dict())
        assert torch.allclose(ours(tokens).fused, releases(tokens).fused, atol=1e-6) == agree


def test_new_bridge_hands_on_the_semantic_tokens_alone():
    bridge = small_bridge(feature_scale=4.0)
    bridged = bridge(small_tokens())
    assert_close(bridged.fused, bridged.semantic_prediction / 4)


def test_bridge_that_meets_its_target_tells_the_dit_the_teachers_states():
    teacher = torch.randn(2, 6, 32)
    assert_close(small_bridge(feature_scale=4.0).semantic_target(teacher) / 4, teacher)


def test_residual_projector_learns_once_the_fuser_has_moved():
    bridge = small_bridge()
    optimizer = torch.optim.SGD(bridge.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        bridge(small_tokens()).fused.square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in bridge.residual_projector.parameters())


def test_events_do_not_mix():
    bridge = small_bridge()
    torch.nn.init.normal_(bridge.fuser.out_proj.weight)
    tokens = small_tokens(3)
    alone = bridge(BridgeTokens(semantic=tokens.semantic[1:2], residual=tokens.residual[1:2]))
    assert_close(bridge(tokens).fused[1:2], alone.fused)


def test_bridge_survives_saving(tmp_path: Path):
    bridge = small_bridge(feature_scale=3.0)
    bridge.unconditional.normal_()
    bridge.save_pretrained(tmp_path)
    loaded = Bridge.from_pretrained(tmp_path, use_safetensors=True)
    assert loaded.feature_scale == 3.0
    assert torch.equal(loaded.unconditional, bridge.unconditional)
    assert torch.equal(loaded(small_tokens()).fused, bridge(small_tokens()).fused)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_bridge_runs_in_bfloat16(tmp_path: Path):
    bridge = small_bridge()
    bridge.save_pretrained(tmp_path)
    half = Bridge.from_pretrained(tmp_path, use_safetensors=True, torch_dtype=torch.bfloat16)
    fused = half(small_tokens()).fused
    assert fused.dtype == torch.bfloat16
    assert_close(fused.float(), bridge(small_tokens()).fused, rtol=0, atol=0.02)


def fused_by(fusion: str, seed: int = 0, **changes) -> Bridge:
    torch.manual_seed(seed)
    return Bridge.from_config(small_bridge().config, fusion=fusion, **changes)


def test_a_fuser_that_starts_at_random_mixes_from_the_start():
    bridge = fused_by("random_init")
    bridged = bridge(small_tokens())
    assert not torch.allclose(bridged.fused, bridged.semantic_prediction / bridge.feature_scale, atol=1e-3)
    assert {name for name, _ in bridge.named_parameters()} == {name for name, _ in small_bridge().named_parameters()}


def test_concatenated_the_condition_holds_both_kinds_of_tokens():
    bridge, tokens = fused_by("concatenation", feature_scale=4.0), small_tokens()
    bridged = bridge(tokens)
    assert bridged.fused.shape[1] == bridge.num_semantic + bridge.num_residual == len(bridge.unconditional)
    assert_close(bridged.fused[:, : bridge.num_semantic], bridged.semantic_prediction / 4)
    assert_close(bridged.fused[:, bridge.num_semantic :], bridge.residual_projector(tokens.residual) / 4)
    assert not any(name.startswith("fuser") for name, _ in bridge.named_parameters())


def test_without_fusion_the_residual_tokens_lead_nowhere():
    bridge, tokens = fused_by("none"), small_tokens()
    others = BridgeTokens(semantic=tokens.semantic, residual=torch.randn_like(tokens.residual))
    assert torch.equal(bridge(tokens).fused, bridge(others).fused)
    assert all(name.startswith("semantic_projector") for name, _ in bridge.named_parameters())


@pytest.mark.parametrize("fusion", ["zero_init", "concatenation"])
def test_the_empty_texts_states_take_the_semantic_tokens_place(fusion):
    bridge = fused_by(fusion)
    states = torch.randn(bridge.num_semantic, bridge.config["condition_width"])
    bridge.set_unconditional(states)
    assert torch.equal(bridge.unconditional[: bridge.num_semantic], states)
    assert not bridge.unconditional[bridge.num_semantic :].any()


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match=r"fusion is one of zero_init, .* got 'zeros'"):
        fused_by("zeros")


HEADS = {"semantic_teacher_width": 5, "residual_teacher_width": 5}


def test_heads_bring_the_tokens_to_their_teachers_width_and_leave_the_condition_alone():
    plain, taught, tokens = fused_by("random_init"), fused_by("random_init", **HEADS), small_tokens()
    bridged, before = taught(tokens), plain(tokens)
    assert torch.equal(bridged.fused, before.fused)
    assert before.residual_prediction is None
    assert_close(bridged.semantic_prediction, taught.semantic_head(before.semantic_prediction))
    assert_close(bridged.residual_prediction, taught.residual_head(taught.residual_projector(tokens.residual)))
    names = {name for name, _ in taught.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert names == {f"{kind}_head.{what}" for kind in ("semantic", "residual") for what in ("weight", "bias")}


def test_what_an_audio_encoder_hears_is_the_target_as_it_is_and_for_residual_tokens_its_means():
    taught, heard = fused_by("zero_init", feature_scale=4.0, **HEADS), torch.randn(2, 6, 5)
    assert torch.equal(taught.semantic_target(heard), heard)
    assert_close(taught.residual_target(heard), heard.unflatten(1, (3, 2)).mean(2))


def test_residual_tokens_that_lead_nowhere_cannot_be_taught():
    with pytest.raises(ValueError, match="residual tokens lead nowhere, so nothing can teach them"):
        fused_by("none", residual_teacher_width=5)


def moved(fusion: str = "zero_init") -> Bridge:
    """A bridge that has learnt something."""
    bridge = fused_by(fusion)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.normal_()
    bridge.set_unconditional(torch.randn(6, 32))
    return bridge


@pytest.mark.parametrize("changes", [{"fusion": "none"}, {"fusion": "concatenation"}, HEADS, {"num_residual": 5}])
def test_a_changed_bridge_keeps_what_both_have(changes):
    bridge = moved()
    other = bridge.changed(**changes)
    assert {name: other.config[name] for name in changes} == changes
    for name, parameter in other.named_parameters():
        kept = dict(bridge.named_parameters()).get(name)
        assert (kept is None) == ("_head." in name)
        assert kept is None or torch.equal(parameter, kept)
    assert torch.equal(other.unconditional[:6], bridge.unconditional)


def test_a_fuser_of_another_kind_starts_as_that_kind_does():
    assert not moved("random_init").changed(fusion="zero_init").fuser.out_proj.weight.any()
    bridge = moved()
    other = bridge.changed(fusion="random_init")
    assert other.fuser.out_proj.weight.any()
    assert not torch.equal(other.fuser.in_proj_weight, bridge.fuser.in_proj_weight)
    assert torch.equal(other.residual_projector[0].weight, bridge.residual_projector[0].weight)
