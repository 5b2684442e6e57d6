"""CLAP from a folder as the hub has it: sizes, company, excerpts that are drawn alike, and folders that lack something.

What the published weights make of a recording could not be compared here: they cannot be had.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audiostory.benchmark.embedders.clap import Clap

CAPTIONS = ["a dog barks", "rain", "a bell rings in the rain"]


def save_model(folder, fused):
    """A small ClapModel that hears 1 s at a time, with an extractor and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "barks", "rain", "bell", "rings", "in", "the"]
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 64,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "spec_size": 256,
        "enable_fusion": fused,
        "fusion_type": "aff_2d" if fused else None,
        "patch_embed_input_channels": 1,
    }
    text = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 90,
    }
    torch.manual_seed(0)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12)).save_pretrained(folder)
    ClapFeatureExtractor(max_length_s=1).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("clap") / "tiny-fused", True)


@pytest.fixture(scope="module")
def unfused(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("clap") / "tiny-unfused", False)


def noise(seconds, seed=0):
    return (0.3 * np.random.default_rng(seed).normal(size=int(48_000 * seconds))).astype(np.float32)


@pytest.mark.parametrize("kind", ["fused", "unfused"])
def test_recordings_and_captions_have_length_1_in_one_space(kind, request):
    clap = Clap.load(request.getfixturevalue(kind))
    assert (clap.name, clap.settings["fusion"]) == (f"tiny-{kind}", kind == "fused")
    heard = clap([noise(0.5), noise(2.5)])
    texts = clap.texts(CAPTIONS, batch_size=2)
    assert (texts.shape, heard[0]["embedding"].shape) == ((3, 12), (1, 12))
    for vector in (*texts, heard[0]["embedding"][0], heard[1]["embedding"][0]):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(clap.texts(CAPTIONS[:1])[0], texts[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["fused", "unfused"])
def test_a_clip_is_heard_alike_alone_in_company_and_again(kind, request):
    clap = Clap.load(request.getfixturevalue(kind))
    clips = [noise(0.4, 1), noise(3.0, 2), noise(1.0, 3), noise(2.2, 4)]
    together = clap(clips)
    for clip, heard in zip(clips, together, strict=True):
        np.testing.assert_allclose(clap([clip])[0]["embedding"], heard["embedding"], atol=1e-5)


@pytest.mark.parametrize("kind", ["fused", "unfused"])
def test_excerpts_are_the_same_whatever_was_drawn_before_and_leave_other_draws_alone(kind, request):
    clap = Clap.load(request.getfixturevalue(kind))
    np.random.seed(7)
    expected = np.random.rand(3)
    np.random.seed(7)
    first, _ = clap._hear(noise(3.0))
    np.testing.assert_array_equal(np.random.rand(3), expected)
    again, is_longer = clap._hear(noise(3.0))
    assert torch.equal(first, again)
    assert is_longer.tolist() == [[True]]
    assert not torch.allclose(first, clap._hear(noise(3.0, seed=1))[0])


def test_the_extractors_output_is_what_the_model_is_given(fused):
    from transformers import ClapFeatureExtractor

    clap, clip = Clap.load(fused), noise(0.7)
    inputs = ClapFeatureExtractor.from_pretrained(fused)(clip, sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():
        expected = clap.model.get_audio_features(
            input_features=inputs["input_features"].float(), is_longer=inputs["is_longer"]
        ).pooler_output
    np.testing.assert_allclose(clap([clip])[0]["embedding"], expected, atol=1e-6)


def test_the_version_changes_with_the_weights(tmp_path):
    folder = save_model(tmp_path / "model", True)
    before = Clap.load(folder, name="mine")
    tensors = load_file(folder / "model.safetensors")
    tensors["text_projection.linear1.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    after = Clap.load(folder, name="mine")
    assert (before.name, after.name) == ("mine", "mine")
    assert before.version != after.version


def test_what_a_folder_lacks_is_named_with_what_to_fetch(tmp_path):
    with pytest.raises(
        ValueError, match=r"lacks config\.json, preprocessor_config\.json, model\.safetensors"
    ) as caught:
        Clap.load(tmp_path)
    assert "laion/clap-htsat-fused (about 615 MB)" in str(caught.value)
    folder = save_model(tmp_path / "model", True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["audio_projection.linear1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors of a ClapModel \(audio_projection\.linear1\.weight\)"):
        Clap.load(folder)


def test_damaged_folders_are_named(tmp_path):
    folder = save_model(tmp_path / "model", True)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:2000])
    with pytest.raises(ValueError, match="model cannot be read"):
        Clap.load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    page = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**page, "sampling_rate": 44_100}))
    with pytest.raises(ValueError, match="asks for 44100 Hz, CLAP hears at 48000"):
        Clap.load(folder)
