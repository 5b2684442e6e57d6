"""The text encoder against the recorded states, and its folder."""

from __future__ import annotations

from pathlib import Path

import golden_weights
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from audiostory.model.text_encoder import TextEncoder

TEXTS = ("rain and thunder", "a long audio of dogs barking in the distance")


def test_texts_are_encoded_as_the_release_does(golden_text_encoder: TextEncoder):
    golden = golden_weights.data("conditioning")
    ids, attention = golden_text_encoder.tokenize(TEXTS, golden["t5_text_mask"].shape[1])
    assert torch.equal(attention, golden["t5_text_mask"])
    with torch.no_grad():
        states = golden_text_encoder(ids, attention)
    assert_close(states, golden["t5_text_embeds"], rtol=0, atol=1e-5)


def test_empty_text_gives_the_releases_unconditional_tokens(golden_text_encoder: TextEncoder):
    golden = golden_weights.data("conditioning")
    ids, attention = golden_text_encoder.tokenize([""], 8)
    assert torch.equal(ids, golden["uncond_ids"])
    assert torch.equal(attention.long(), golden["uncond_mask"])
    assert_close(golden_text_encoder.unconditional(8), golden["cond_stack"][0], rtol=0, atol=1e-5)


def test_long_text_is_cut_and_still_ended(golden_text_encoder: TextEncoder):
    whole, _ = golden_text_encoder.tokenize(TEXTS[1:], 26)
    cut, attention = golden_text_encoder.tokenize(TEXTS[1:], 5)
    assert cut.tolist() == [[*whole[0, :4].tolist(), 1]]
    assert attention.all()


def test_padding_changes_no_real_state(golden_text_encoder: TextEncoder):
    short = golden_text_encoder.encode(TEXTS[:1], 12)
    long = golden_text_encoder.encode(TEXTS[:1], 30)
    num_real = golden_text_encoder.tokenize(TEXTS[:1], 30)[1].sum()
    assert_close(long[:, :num_real], short[:, :num_real], rtol=0, atol=1e-5)
    assert long[:, num_real:].abs().max() > 0


def test_training_mode_and_autocast_change_nothing(golden_text_encoder: TextEncoder):
    states = golden_text_encoder.encode(TEXTS, 26)
    golden_text_encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(golden_text_encoder.encode(TEXTS, 26), states)
    golden_text_encoder.eval()


def test_text_encoder_survives_saving(golden_text_encoder: TextEncoder, tmp_path: Path):
    golden_text_encoder.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "encoder.embed_tokens.weight" not in file.keys()  # noqa: SIM118
    loaded = TextEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(TEXTS, 26), golden_text_encoder.encode(TEXTS, 26))


@pytest.mark.parametrize("left_out", ["shared.weight", "encoder.embed_tokens.weight", None])
def test_embedding_table_may_stand_under_either_name_or_both(
    golden_text_encoder: TextEncoder, tmp_path: Path, left_out: str | None
):
    golden_text_encoder.save_pretrained(tmp_path)
    weights = {k: v.clone() for k, v in golden_weights.tensors(golden_weights.TEXT_ENCODER).items() if k != left_out}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = TextEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(TEXTS, 26), golden_text_encoder.encode(TEXTS, 26))


def test_missing_tensor_and_missing_tokenizer_are_named(golden_text_encoder: TextEncoder, tmp_path: Path):
    golden_text_encoder.save_pretrained(tmp_path)
    weights = golden_weights.tensors(golden_weights.TEXT_ENCODER).items()
    weights = {k: v.clone() for k, v in weights if k != "encoder.final_layer_norm.weight"}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks encoder\.final_layer_norm\.weight"):
        TextEncoder.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        TextEncoder.from_pretrained(tmp_path)
