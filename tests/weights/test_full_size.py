"""The released networks at their full size, without memory: every name, every shape and every count of parameters.

keys_full.txt and keys_vae.txt list what the release's own networks hold, param_table.txt counts it (SPEC 1 and 2). The
configurations are those that are published beside the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from torch import nn

from audiostory.model.planner import LoraSettings
from audiostory.weights import build, huggingface, released, tangoflux

DATA = Path(__file__).parents[1] / "data"
LLM = "seedx.llm.base_model.model."

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 32768,
    "max_window_layers": 70,
    "model_type": "qwen2",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
FLAN_T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2816,
    "d_kv": 64,
    "d_model": 1024,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 24,
    "num_heads": 16,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}
TANGOFLUX = {
    "num_layers": 6,
    "num_single_layers": 18,
    "in_channels": 64,
    "attention_head_dim": 128,
    "joint_attention_dim": 1024,
    "num_attention_heads": 8,
    "audio_seq_len": 645,
    "max_duration": 30,
    "uncondition": False,
    "text_encoder_name": "ckpt/flan-t5-large",
}
LLM_MODEL = {
    "_target_": "src.models.mllm.peft_models.get_peft_model_with_resize_embedding",
    "model": {
        "_target_": "transformers.AutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": "ckpt/Qwen2.5-3B-Instruct",
    },
    "peft_config": {
        "_target_": "peft.LoraConfig",
        "_convert_": "object",
        "r": 32,
        "lora_alpha": 32,
        "modules_to_save": ["input_layernorm", "post_attention_layernorm", "norm"],
        "target_modules": ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
        "task_type": "CAUSAL_LM",
        "lora_dropout": 0.05,
    },
    "vocab_size": 152277,
}
CONFIG = {
    "tokenizer": {
        "_target_": "src.models.tokenizer.init_qwen_tokenizer.init_tokenizer",
        "pretrained_model_path": "ckpt/Qwen2.5-3B-Instruct",
        "add_tokens_path": "tokenizer/added_tokens.json",
    },
    "llm_model": LLM_MODEL,
    "agent_model": {
        "_target_": "src.models.mllm.modeling_audiostory_llm.AudioStory_llm.from_pretrained",
        "input_resampler": None,
        "output_resampler": None,
        "whisper_resampler_llava": {
            "_target_": "src.models.tokenizer.modeling_whisper.Whisper_Resampler_llava",
            "token_num": 64,
            "ori_embed_dim": 1280,
            "tgt_embed_dim": 2048,
        },
        "t5_feature_scale": 10,
        "model_dims": 2048,
    },
    "seedx_dit_model_cfg": {
        "_target_": "src.models.mllm.modeling_audiostory_unified.AudioStory_unified",
        "rec_loss_type": "mse",
        "lm_loss_scale": 1.0,
        "dit_loss_scale": 1.0,
        "rec_loss_scale": 0.5,
    },
    "train_dataset": {"_target_": "x.y", "datapipes": [{"num_t5_out_tokens": 64, "num_aud_out_tokens": 8}]},
}
READ = released.ReleasedConfig(
    num_semantic=64,
    num_residual=8,
    feature_scale=10.0,
    planner_width=2048,
    num_tokens=152277,
    lora=LoraSettings(),
    language_model="ckpt/Qwen2.5-3B-Instruct",
    tokenizer="ckpt/Qwen2.5-3B-Instruct",
    added_tokens="tokenizer/added_tokens.json",
    listener={"audio_width": 1280, "planner_width": 2048, "num_tokens": 64},
    loss_weights={"text": 1.0, "semantic": 0.5, "flow": 1.0},
)


def keys(name: str) -> dict[str, tuple[int, ...]]:
    lines = [line.split("\t") for line in (DATA / name).read_text().splitlines() if not line.startswith("#")]
    return {key: tuple(int(size) for size in re.findall(r"\d+", shape)) for key, shape, *_ in lines}


def write(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(content) if name.endswith(".yaml") else json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> released.Empty:
    folder = tmp_path_factory.mktemp("configurations")
    flux = write(folder / "Flux_detokenizer", "config.json", TANGOFLUX)
    return released.build_empty(
        released.read_config(write(folder / "audiostory-3B", "config.yaml", CONFIG)),
        tangoflux.read_config(flux),
        tangoflux.read_vae_config(flux),
        huggingface.qwen_config(write(folder / "Qwen2.5-3B-Instruct", "config.json", QWEN)),
        huggingface.t5_config(write(folder / "flan-t5-large", "config.json", FLAN_T5)),
        keys("keys_full.txt"),
        "the full size",
    )


def parts(full: released.Empty) -> list[nn.Module]:
    return [part for part in vars(full).values() if isinstance(part, nn.Module)]


def test_the_unified_networks_have_every_released_tensor_and_no_other(full):
    found = keys("keys_full.txt")
    report = released.RELEASED.match(found, full.shapes())
    assert (report.missing, report.unexpected, report.misshaped, report.ignored) == ((), (), (), ())
    assert set(report.aliased) == set(released.RELEASED.aliases)
    assert len(found) == len(report.loaded) + len(report.aliased) == 1713
    assert set(report.loaded) == set(full.shapes())


def test_the_codec_has_every_released_tensor_and_no_other():
    found = keys("keys_vae.txt")
    codec = tangoflux.empty_codec(tangoflux.VaeConfig(), found, "the full size")
    report = tangoflux.VAE.match(found, build.shapes_of(codec.vae, "codec/vae."))
    report.check("keys_vae.txt")
    assert len(found) == len(report.loaded) == 365
    assert str(report).startswith("365 loaded, 0 aliased, 0 ignored")


def test_the_full_size_takes_no_memory(full):
    tensors = [tensor for part in parts(full) for tensor in part.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def has(pattern: str) -> Callable[[str], bool]:
    return lambda name: re.match(pattern, name) is not None


LINES = {
    "seedx.llm embed_tokens": has(rf"{LLM}model\.embed_tokens\."),
    "seedx.llm lm_head": has(rf"{LLM}lm_head\."),
    "seedx.llm LoRA": has(rf"{LLM}.*\.lora_[AB]\."),
    "seedx.llm norms original_module": has(rf"{LLM}.*norm\.original_module\."),
    "seedx.llm norms modules_to_save": has(rf"{LLM}.*norm\.modules_to_save\."),
    "seedx.llm base linear": has(rf"{LLM}.*_proj\.(weight|bias)$"),
}


def counted() -> dict[str, tuple[int, int]]:
    """Keys and parameters of each line of param_table.txt, by its first words."""
    table = (DATA / "param_table.txt").read_text()
    found = re.findall(r"^(\S.*?)\s+keys\s+(\d+)\s+params ([\d,]+)$", table, re.MULTILINE)
    lines = {name: (int(number), int(params.replace(",", ""))) for name, number, params in found}
    return {next((line for line in LINES if name.startswith(line)), name): counts for name, counts in lines.items()}


@pytest.mark.parametrize("line", counted())
def test_the_parameters_are_as_many_as_the_release_counts(full, line):
    belongs = LINES.get(line, has(rf"{re.escape(line)}\."))
    theirs = {released.RELEASED.to_theirs(name): shape for name, shape in full.shapes().items()}
    for alias, original in released.RELEASED.aliases.items():
        theirs[alias] = theirs[original]
    sizes = [math.prod(shape) for name, shape in theirs.items() if belongs(str(name))]
    assert (len(sizes), sum(sizes)) == counted()[line]


def test_the_distinct_parameters_are_as_many_as_the_release_counts(full):
    total = re.search(r"total keys (\d+); distinct params ([\d,]+)", (DATA / "param_table.txt").read_text())
    assert total is not None
    distinct = {id(parameter): parameter.numel() for part in parts(full) for parameter in part.parameters()}
    assert f"{sum(distinct.values()):,}" == total[2]
    assert sum(number for number, _ in counted().values()) == int(total[1])


def test_config_yaml_is_read_as_published(tmp_path):
    assert released.read_config(write(tmp_path, "config.yaml", CONFIG)) == READ


def test_an_open_llm_model_is_that_of_the_shipped_file(tmp_path):
    assert released.read_config(write(tmp_path, "config.yaml", {**CONFIG, "llm_model": None})) == READ
    absent = {name: value for name, value in CONFIG.items() if name != "llm_model"}
    assert released.read_config(write(tmp_path, "config.yaml", absent)) == READ


def test_an_open_llm_model_is_read_from_the_file_that_is_given(tmp_path):
    folder = write(tmp_path, "config.yaml", {**CONFIG, "llm_model": None})
    other = {**LLM_MODEL, "vocab_size": 388, "peft_config": {**LLM_MODEL["peft_config"], "r": 4, "lora_alpha": 8}}
    write(tmp_path, "llm.yaml", {**other, "model": {"pretrained_model_name_or_path": "ckpt/Qwen-tiny"}})
    config = released.read_config(folder, tmp_path / "llm.yaml")
    assert (config.num_tokens, config.lora) == (388, LoraSettings(rank=4, alpha=8))
    assert config.language_model == "ckpt/Qwen-tiny"


def test_an_llm_model_in_config_yaml_wins_over_the_file_that_is_given(tmp_path):
    folder = write(tmp_path, "config.yaml", CONFIG)
    write(tmp_path, "llm.yaml", {**LLM_MODEL, "vocab_size": 388})
    assert released.read_config(folder, tmp_path / "llm.yaml") == READ


def test_a_checkpoint_without_a_listener_has_none(tmp_path):
    agent = {**CONFIG["agent_model"], "whisper_resampler_llava": None}
    config = released.read_config(write(tmp_path, "config.yaml", {**CONFIG, "agent_model": agent}))
    assert config.listener is None


def test_the_published_configurations_are_read_by_value(tmp_path):
    qwen = huggingface.qwen_config(write(tmp_path, "config.json", QWEN))
    assert (qwen.hidden_size, qwen.num_hidden_layers, qwen.num_key_value_heads) == (2048, 36, 2)
    assert (qwen.rms_norm_eps, qwen.tie_word_embeddings, qwen.eos_token_id) == (1e-6, True, 151645)
    assert qwen.to_dict()["rope_parameters"]["rope_theta"] == 1e6
    t5 = huggingface.t5_config(write(tmp_path, "config.json", FLAN_T5))
    assert (t5.d_model, t5.d_ff, t5.d_kv, t5.num_layers, t5.num_heads) == (1024, 2816, 64, 24, 16)
    assert (t5.is_gated_act, t5.dense_act_fn, t5.layer_norm_epsilon) == (True, "gelu_new", 1e-6)
    assert tangoflux.read_config(write(tmp_path, "config.json", TANGOFLUX)) == tangoflux.TangoFluxConfig(
        text_encoder_name="ckpt/flan-t5-large"
    )
    assert tangoflux.read_vae_config(tmp_path) == tangoflux.VaeConfig()
