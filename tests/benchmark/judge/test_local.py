"""The local back end on a tiny Qwen2-Audio with random weights: it hears, reads, and writes nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark.judge.loopback import write_tone

from audiostory.benchmark.judge.backend import RefusedError
from audiostory.benchmark.judge.local import Local, model_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that hears 2 seconds."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2-audio"
    special = ["<|pad|>", "<|end|>", "<|unk|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    words = [*special, "Judge", "this", ".", "user", "assistant", "yes", "no"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        additional_special_tokens=special[3:],
    )
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %} assistant"
    )
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    Qwen2AudioProcessor(extractor, fast, chat_template=template).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 8,
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "max_source_positions": 100,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        audio_token_index=3,
    )
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def judge(folder) -> Local:
    return Local(folder, temperature=0.0, device="cpu")


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    monkeypatch.setattr("audiostory.benchmark.judge.local.MAX_NEW_TOKENS", 8)


def test_it_writes_the_same_twice_and_only_what_is_new(judge, tone):
    words = judge.ask("Judge this .", tone)
    assert words == judge.ask("Judge this .", tone)
    assert not words.startswith("Judge this .")
    assert isinstance(judge.ask("Judge this .", None), str)


def test_what_it_hears_reaches_the_model(judge, tmp_path, monkeypatch):
    seen = []
    generate = judge._model.generate
    monkeypatch.setattr(judge._model, "generate", lambda **inputs: seen.append(inputs) or generate(**inputs))
    for hertz in (300, 3000):
        judge.ask("Judge this .", write_tone(tmp_path / f"{hertz}.wav", hertz, rate=44_100))
    judge.ask("Judge this .", None)
    low, high, none = seen
    assert low["input_features"].shape == high["input_features"].shape
    assert (low["input_features"] - high["input_features"]).abs().max() > 0.1
    assert (low["input_ids"] == 3).sum() > 1  # places for half a second of sound
    assert "input_features" not in none


def test_a_recording_longer_than_the_model_hears_is_refused_not_cut(judge, tmp_path):
    with pytest.raises(RefusedError, match=r"lasts 3\.0 s and this model hears the first 2 s alone"):
        judge.ask("Judge this .", write_tone(tmp_path / "long.wav", 300, seconds=3))


def test_the_models_name_follows_its_files(folder, judge, tmp_path):
    assert judge.model == model_name(folder)
    assert judge.model.startswith("tiny-qwen2-audio@")
    copy = tmp_path / "tiny-qwen2-audio"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert model_name(copy) == judge.model
    (copy / "more.safetensors").write_bytes(b"x")
    other = model_name(copy)
    assert other != judge.model
    (copy / "more.safetensors").write_bytes(b"y")  # weights of another training are as large
    assert model_name(copy) not in (other, judge.model)


def test_a_device_that_is_not_there_is_a_users_mistake(folder):
    with pytest.raises(ValueError, match="cannot go to 'nowhere'"):
        Local(folder, temperature=0.0, device="nowhere")


def test_a_folder_that_holds_no_model_is_a_users_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        Local(tmp_path, temperature=0.0)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="is no model that hears and writes"):
        Local(tmp_path, temperature=0.0)
