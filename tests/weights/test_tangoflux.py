"""TangoFlux folders in both published layouts: the same networks come out of either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden_weights
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from audiostory.weights import tangoflux

PREFIX, ALIAS = "tangoflux.", "tangoflux.text_encoder.encoder.embed_tokens.weight"


@pytest.fixture
def own_layout(checkpoint) -> Path:
    """TangoFlux's own folder, derived from the recorded checkpoint: no prefix, and no alias, as published."""
    folder = checkpoint / "TangoFlux"
    folder.mkdir()
    for name in ("config.json", "vae_config.json"):
        shutil.copyfile(checkpoint / "Flux_detokenizer" / name, folder / name)
    shutil.copyfile(checkpoint / "Flux_detokenizer/model.safetensors", folder / "vae.safetensors")
    unified = golden_weights.tensors("ckpt/audiostory-tiny/pytorch_model.bin")
    own = {name.removeprefix(PREFIX): value for name, value in unified.items() if name.startswith(PREFIX)}
    own.pop(ALIAS.removeprefix(PREFIX))
    save_file({name: value.clone() for name, value in own.items()}, folder / "tangoflux.safetensors")
    return folder


def assert_same(one: nn.Module, other: nn.Module | None) -> None:
    assert other is not None
    ours, theirs = one.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def test_its_own_layout_gives_the_networks_that_the_unified_checkpoint_holds(own_layout):
    dit, encoder, codec = tangoflux.read(own_layout)
    unified = golden_weights.model()
    assert_same(dit, unified.dit)
    assert_same(encoder, unified.text_encoder)
    assert_same(codec, unified.codec)
    for own, theirs in ((dit, unified.dit), (codec, unified.codec)):
        assert {k: v for k, v in theirs.config.items() if not k.startswith("_")}.items() <= own.config.items()
    assert not any(module.training for part in (dit, encoder, codec) for module in part.modules())


def test_both_layouts_hold_the_same_vae(own_layout, checkpoint):
    own, report = tangoflux.read_codec(own_layout)
    beside, _ = tangoflux.read_codec(checkpoint / "Flux_detokenizer")
    assert_same(own, beside)
    assert str(report) == "225 loaded, 0 aliased, 0 ignored, 0 missing, 0 unexpected, 0 misshaped"
    assert torch.equal(own.latent_mean, torch.zeros(64))
    assert torch.equal(own.latent_std, torch.ones(64))


def test_the_codec_gives_the_recorded_sound(own_layout):
    recorded = golden_weights.data("vae")
    with torch.no_grad():
        wave = tangoflux.read_codec(str(own_layout))[0].decode(recorded["latents"])
    golden_weights.assert_as_recorded(wave, recorded["wave"])


def test_the_text_encoder_gives_the_recorded_unconditional_tokens(own_layout):
    encoder = tangoflux.read(own_layout)[1]
    golden_weights.assert_as_recorded(encoder.unconditional(8), golden_weights.data("conditioning")["cond_stack"][0])


def test_the_alias_of_the_text_encoders_table_may_be_there(own_layout):
    def add(tensors):
        tensors["text_encoder.encoder.embed_tokens.weight"] = tensors["text_encoder.shared.weight"].clone()

    edit_weights(own_layout / "tangoflux.safetensors", add)
    assert_same(tangoflux.read(own_layout)[1], golden_weights.model().text_encoder)


def test_the_text_encoders_folder_may_be_given(own_layout, tmp_path):
    t5 = shutil.move(own_layout.parent / "flan-t5-tiny", tmp_path / "t5")
    with pytest.raises(
        ValueError, match=r"config.json names 'ckpt/flan-t5-tiny' as its text encoder, and there is none"
    ):
        tangoflux.read(own_layout)
    assert_same(tangoflux.read(own_layout, t5)[1], golden_weights.model().text_encoder)
    assert_same(tangoflux.read(str(own_layout), str(t5))[0], golden_weights.model().dit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_text_encoder_and_the_duration_stay_in_float32(own_layout, dtype):
    dit, encoder, codec = tangoflux.read(own_layout, dtype=dtype)
    for name, tensor in dit.state_dict().items():
        assert tensor.dtype == (torch.float32 if name.startswith("duration_embedder.") else dtype), name
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in codec.vae.state_dict().values()} == {dtype}


def test_a_configuration_may_leave_out_what_the_release_takes_by_default(tmp_path):
    (tmp_path / "config.json").write_text('{"num_layers": 1}')
    assert tangoflux.read_config(tmp_path) == tangoflux.TangoFluxConfig(num_layers=1)
    assert tangoflux.read_vae_config(tmp_path) == tangoflux.VaeConfig()
    (tmp_path / "vae_config.json").write_text('{"sampling_rate": 400}')
    assert tangoflux.read_vae_config(tmp_path) == tangoflux.VaeConfig(sampling_rate=400)


def test_a_setting_that_nothing_uses_is_warned_of(tmp_path, caplog):
    (tmp_path / "config.json").write_text('{"num_layers": 1, "hidden_size": 3}')
    assert tangoflux.read_config(tmp_path) == tangoflux.TangoFluxConfig(num_layers=1)
    assert "sets ['hidden_size'], which nothing here uses" in caplog.text


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vae_config.json", {"front": "x"}, r"vae_config.json sets \['front'\], which this VAE does not have"),
        ("config.json", {"num_layers": 2}, "says 2 layers .* the weights hold 1"),
        ("config.json", {"num_attention_heads": 2}, "misshaped: transformer"),
        ("config.json", {"joint_attention_dim": 512}, "misshaped: "),
        ("vae_config.json", {"downsampling_ratios": [2, 4]}, "says 2 layers .* the weights hold 3"),
        ("vae_config.json", {"downsampling_ratios": [2, 4, 2]}, "misshaped: "),
        ("vae_config.json", {"audio_channels": 1}, "misshaped: "),
    ],
)
def test_a_configuration_of_another_network_is_refused(own_layout, file, changes, message):
    edit(own_layout / file, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        tangoflux.read(own_layout)
    assert str(own_layout) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tangoflux.safetensors", lambda t: t.pop("fc.0.bias"), r"1 missing: fc\.0\.bias\."),
        ("tangoflux.safetensors", lambda t: t.update({"fc.1.bias": torch.ones(1)}), r"1 unexpected: fc\.1\.bias\."),
        ("tangoflux.safetensors", lambda t: t.update({"fc.0.bias": torch.ones(3)}), r"fc\.0\.bias \[3\], expected"),
        ("vae.safetensors", lambda t: t.pop("encoder.conv1.bias"), r"1 missing: encoder\.conv1\.bias\."),
        ("vae.safetensors", lambda t: t.update(more=torch.ones(1)), r"1 unexpected: more\."),
    ],
)
def test_weights_of_another_network_are_refused(own_layout, file, change, message):
    edit_weights(own_layout / file, change)
    with pytest.raises(ValueError, match=message) as caught:
        tangoflux.read(own_layout)
    assert str(own_layout) in str(caught.value)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("tangoflux.safetensors", "expected tangoflux.safetensors; copy the folder again"),
        ("vae.safetensors", "expected vae.safetensors or model.safetensors; copy"),
        ("config.json", "config.json is missing"),
    ],
)
def test_an_absent_file_is_named(own_layout, absent, message):
    (own_layout / absent).unlink()
    with pytest.raises(ValueError, match=message):
        tangoflux.read(own_layout)


def test_the_folder_beside_the_checkpoint_is_no_whole_tangoflux(checkpoint):
    with pytest.raises(ValueError, match=r"expected tangoflux\.safetensors; copy"):
        tangoflux.read(checkpoint / "Flux_detokenizer")
