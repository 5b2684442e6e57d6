"""Plain Hugging Face folders: what we read from them equals what transformers itself makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiostory.model import tiny
from audiostory.model.text_encoder import TextEncoder
from audiostory.weights import huggingface

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def qwen(folder: Path, *, save: dict | None = None, **changes) -> Qwen2ForCausalLM:
    """A small random network, saved as transformers does."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**{**sizes, "intermediate_size": 48, "vocab_size": 50, **changes})).eval()
    model.save_pretrained(folder, **(save or {}))
    return model


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_a_qwen_folder_gives_the_network_that_transformers_reads(tmp_path, tie):
    qwen(tmp_path, tie_word_embeddings=tie, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    theirs = Qwen2ForCausalLM.from_pretrained(tmp_path)
    planner = huggingface.read_planner(tmp_path)
    assert_same(planner.qwen, theirs)
    assert (planner.qwen.lm_head.weight is planner.qwen.model.embed_tokens.weight) == tie
    assert not planner.training
    assert planner.qwen.config.eos_token_id == theirs.config.eos_token_id
    with torch.no_grad():
        assert torch.equal(planner.qwen(IDS).logits, theirs(IDS).logits)


def test_the_recorded_qwen_folder_is_read_alike(golden_checkpoint):
    """Its configuration is in the words of older versions: rope_theta, torch_dtype."""
    folder = golden_checkpoint / "Qwen-tiny"
    theirs = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    planner = huggingface.read_planner(str(folder))
    assert_same(planner.qwen, theirs)
    assert planner.qwen.config.rope_parameters == theirs.config.rope_parameters
    assert planner.qwen.config.to_dict()["rope_parameters"]["rope_theta"] == 1e6
    with torch.no_grad():
        assert torch.equal(planner.states(IDS), theirs.model(IDS).last_hidden_state)


def test_a_head_and_an_old_rotary_table_that_repeat_what_is_known_do_no_harm(tmp_path):
    theirs = qwen(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(huggingface.read_planner(tmp_path).qwen, theirs)


def test_an_untied_head_must_be_there(tmp_path):
    qwen(tmp_path, tie_word_embeddings=True)
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"1 missing: lm_head\.weight\."):
        huggingface.read_planner(tmp_path)


def test_a_head_of_its_own_is_refused_where_the_configuration_ties_it(tmp_path):
    qwen(tmp_path, tie_word_embeddings=False)
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head\.weight should repeat model\.embed_tokens\.weight and does not"):
        huggingface.read_planner(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_planner_comes_in_the_dtype_asked_for(tmp_path, dtype):
    whole = qwen(tmp_path).state_dict()
    half = huggingface.read_planner(tmp_path, dtype=dtype).qwen.state_dict()
    assert all(torch.equal(half[name], tensor.to(dtype)) for name, tensor in whole.items())


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_shards_and_pickles_hold_the_same_network(tmp_path, sharded, pickled):
    theirs = qwen(tmp_path, save={"max_shard_size": "20kB"} if sharded else {})
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 2) == sharded
    if pickled:
        for path in shards:
            torch.save(
                load_file(path), tmp_path / path.name.replace("model", "pytorch_model").replace("safetensors", "bin")
            )
            path.unlink()
        if sharded:
            index = tmp_path / "model.safetensors.index.json"
            text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            (tmp_path / "pytorch_model.bin.index.json").write_text(text)
            index.unlink()
    assert_same(huggingface.read_planner(tmp_path).qwen, theirs)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("num_tokens", [57, 50, 43])
def test_new_rows_of_a_resized_table_start_as_the_mean_of_all_old_ones(tmp_path, tie, num_tokens):
    old = qwen(tmp_path, tie_word_embeddings=tie).state_dict()
    planner = huggingface.read_planner(tmp_path, num_tokens)
    assert planner.qwen.config.vocab_size == num_tokens
    new = planner.qwen.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        kept = min(50, num_tokens)
        assert new[name].shape == (num_tokens, 32)
        assert torch.equal(new[name][:kept], old[name][:kept])
        for row in new[name][kept:]:
            torch.testing.assert_close(row, old[name].mean(0), rtol=0, atol=1e-7)
    others = set(old) - {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(new[name], old[name]) for name in others)
    with torch.no_grad():
        assert planner.logits(planner.states(IDS)).shape[-1] == num_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 3, "layer_types": None},
            "says 3 layers .* the weights hold 2; check that they belong together",
        ),
        ({"hidden_size": 64}, r"asks for a q_proj of \[64, 64\], the weights hold \[32, 32\]"),
        ({"num_key_value_heads": 4}, r"asks for a k_proj of \[32, 32\], the weights hold \[16, 32\]"),
        ({"vocab_size": 51}, r"1 misshaped: model\.embed_tokens\.weight \[50, 32\], expected \[51, 32\]"),
        ({"hidden_act": "strange"}, "the configuration describes no network"),
        ({"rope_parameters": {"rope_type": "strange", "rope_theta": 1.0}}, "describes no network|no configuration"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "describes no network|no configuration"),
        ({"model_type": "llama"}, "describes a model of type 'llama', expected 'qwen2'"),
        ({"model_type": "t5"}, "describes a model of type 't5', expected 'qwen2'"),
    ],
)
def test_a_configuration_of_another_network_is_refused(tmp_path, changes, message):
    qwen(tmp_path, tie_word_embeddings=True)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        huggingface.read_planner(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_repetition_penalty_comes_from_the_folder_or_is_none(golden_checkpoint, tmp_path):
    assert huggingface.repetition_penalty(golden_checkpoint / "Qwen-tiny") == 1.05
    assert huggingface.repetition_penalty(tmp_path) == 1
    (tmp_path / "generation_config.json").write_text("{}")
    assert huggingface.repetition_penalty(tmp_path) == 1


T5_SIZES = {"d_model": 24, "d_ff": 40, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 120}


def t5(folder: Path, tokenizer: Path, **changes) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(**{**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **changes})
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return model


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_a_flan_t5_folder_gives_the_encoder_that_transformers_reads(golden_checkpoint, tmp_path, feed_forward):
    t5(tmp_path, golden_checkpoint / "flan-t5-tiny/tokenizer.json", feed_forward_proj=feed_forward)
    encoder, theirs = huggingface.read_text_encoder(tmp_path), TextEncoder.from_pretrained(tmp_path)
    assert_same(encoder, theirs)
    texts = ["", "rain on a roof", "dogs bark"]
    assert torch.equal(encoder.encode(texts, 12), theirs.encode(texts, 12))
    assert not any(module.training for module in encoder.modules())
    assert not any(module.p for module in encoder.modules() if isinstance(module, nn.Dropout))


def test_the_recorded_flan_t5_folder_is_read_alike(golden_checkpoint):
    encoder = huggingface.read_text_encoder(golden_checkpoint / "flan-t5-tiny")
    assert_same(encoder, TextEncoder.from_pretrained(golden_checkpoint / "flan-t5-tiny"))


def test_the_decoder_and_the_head_are_passed_over_and_every_alias_may_be_there(golden_checkpoint, tmp_path):
    model = t5(tmp_path, golden_checkpoint / "flan-t5-tiny/tokenizer.json")
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    assert {"decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight"} <= set(tensors)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert_same(huggingface.read_text_encoder(tmp_path).model.encoder, model.encoder)


def test_an_encoder_that_lacks_a_tensor_is_refused(golden_checkpoint, tmp_path):
    t5(tmp_path, golden_checkpoint / "flan-t5-tiny/tokenizer.json")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: encoder\.final_layer_norm\.weight\."):
        huggingface.read_text_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mt5"}, "describes a model of type 'mt5', expected 't5'"),
        ({"num_layers": 3}, "says 3 layers .* the weights hold 2"),
        ({"feed_forward_proj": "relu"}, "2 missing: .* 4 unexpected: "),
        ({"feed_forward_proj": "gated-strange"}, "describes no network"),
    ],
)
def test_a_text_encoders_configuration_of_another_network_is_refused(golden_checkpoint, tmp_path, changes, message):
    t5(tmp_path, golden_checkpoint / "flan-t5-tiny/tokenizer.json")
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        huggingface.read_text_encoder(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("{}", "cannot be read"), (None, "is missing")])
def test_a_damaged_tokenizer_is_refused(golden_checkpoint, tmp_path, text, message):
    t5(tmp_path, golden_checkpoint / "flan-t5-tiny/tokenizer.json")
    (tmp_path / "tokenizer.json").unlink() if text is None else (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=f"tokenizer.json {message}") as caught:
        huggingface.read_text_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def whisper(folder: Path, cls: type[WhisperModel | WhisperForConditionalGeneration | WhisperEncoder]) -> nn.Module:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=50,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = cls(config).eval()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return model if isinstance(model, WhisperEncoder) else model.get_encoder()


@pytest.mark.parametrize("cls", [WhisperModel, WhisperForConditionalGeneration, WhisperEncoder])
def test_a_whisper_folder_gives_the_same_encoder(tmp_path, cls):
    theirs = whisper(tmp_path, cls)
    ours = huggingface.read_audio_encoder(tmp_path)
    assert_same(ours.encoder, theirs)
    assert not any(module.training for module in ours.modules())
    assert (ours.window_seconds, ours.num_mels, ours.width) == (1, 8, 16)
    spectrogram = torch.randn(2, 8, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(spectrogram), theirs(spectrogram).last_hidden_state)


def test_an_encoder_saved_by_us_is_read_back_from_its_own_folder(tmp_path):
    encoder = tiny.audio_encoder()
    encoder.save_pretrained(tmp_path)
    again = huggingface.read_audio_encoder(tmp_path)
    assert_same(again, encoder)
    assert [one.requires_grad for one in again.parameters()] == [one.requires_grad for one in encoder.parameters()]


def test_whisper_comes_in_the_dtype_asked_for(tmp_path):
    whisper(tmp_path, WhisperModel)
    dtypes = {one.dtype for one in huggingface.read_audio_encoder(tmp_path, torch.bfloat16).state_dict().values()}
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "describes a model of type 'wav2vec2', expected 'whisper'"),
        ({"encoder_layers": 3}, "says 3 layers .* the weights hold 2"),
        ({"encoder_layers": 10**6}, "encoder_layers is 1000000, expected a whole number from 1 to 1024"),
        ({"d_model": 32}, "misshaped: "),
        ({"encoder_attention_heads": 3}, "describes no network .*divisible"),
        ({"max_source_positions": 10**12}, "max_source_positions is 1000000000000, expected a whole number"),
        ({"max_source_positions": 100}, "chunk_length is 1; .* chunk_length 2"),
        ({"max_source_positions": 75}, "describes no network .*expected 50 for every second"),
        ({"num_mel_bins": 9}, "feature_size is 8; .* feature_size 9"),
        ({"activation_function": "strange"}, "describes no network"),
    ],
)
@pytest.mark.parametrize("cls", [WhisperModel, WhisperEncoder])
def test_a_whisper_configuration_of_another_network_is_refused(tmp_path, cls, changes, message):
    whisper(tmp_path, cls)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        huggingface.read_audio_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": 44100}, "sampling_rate is 44100; .* sampling_rate 16000"),
        ({"n_fft": 512, "hop_length": 10**9}, "n_fft is 512 and hop_length is 1000000000; "),
        ({"chunk_length": 30}, "chunk_length is 30; .* chunk_length 1"),
        ({"feature_size": None}, "feature_size is None"),
        ({"feature_size": 10**400}, "feature_size is a huge number"),
    ],
)
def test_another_spectrogram_than_whispers_is_refused(tmp_path, changes, message):
    whisper(tmp_path, WhisperModel)
    edit(tmp_path / "preprocessor_config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        huggingface.read_audio_encoder(tmp_path)
    assert str(tmp_path / "preprocessor_config.json") in str(caught.value)


def test_a_misshaped_encoder_is_refused_before_it_is_built(tmp_path):
    whisper(tmp_path, WhisperModel)
    edit(tmp_path / "config.json", num_mel_bins=9)
    edit(tmp_path / "preprocessor_config.json", feature_size=9)
    message = r"1 misshaped: encoder\.conv1\.weight \[16, 8, 3\], expected \[16, 9, 3\]"
    with pytest.raises(ValueError, match=message):
        huggingface.read_audio_encoder(tmp_path)


def test_a_whisper_without_its_spectrogram_is_refused(tmp_path):
    whisper(tmp_path, WhisperModel)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is missing"):
        huggingface.read_audio_encoder(tmp_path)


@pytest.mark.parametrize("name", ["layer_norm.weight", "embed_positions.weight", "layers.1.fc1.bias"])
def test_an_audio_encoder_that_lacks_a_tensor_is_refused(tmp_path, name):
    whisper(tmp_path, WhisperEncoder)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    tensors["more"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: .*; 1 unexpected: more"):
        huggingface.read_audio_encoder(tmp_path)
