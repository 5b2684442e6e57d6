"""The recorded checkpoint, read as a user's would be: what comes out, and what is asked for when something is open."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import golden_weights
import pytest
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, models
from torch import nn

from audiostory.model.planner import LoraSettings, Planner
from audiostory.story.prompts import RELEASED_LEAD_IN
from audiostory.story.vocabulary import SPECIAL_TOKENS
from audiostory.weights import build, huggingface, released, tangoflux

SCRIPTED = golden_weights.data("generate_scripted")
META = golden_weights.RECORDING.meta
WEIGHTS = "ckpt/audiostory-tiny/pytorch_model.bin"
CONFIG = yaml.safe_load((golden_weights.GOLDEN / "ckpt_static/audiostory-tiny/config.yaml").read_text())
ABSENT = object()

READ_KEYS = [
    "tokenizer.pretrained_model_path",
    "tokenizer.add_tokens_path",
    "llm_model.model.pretrained_model_name_or_path",
    "llm_model.peft_config.r",
    "llm_model.peft_config.lora_alpha",
    "llm_model.peft_config.target_modules",
    "llm_model.peft_config.modules_to_save",
    "llm_model.vocab_size",
    "agent_model.model_dims",
    "agent_model.t5_feature_scale",
    "agent_model.whisper_resampler_llava.token_num",
    "agent_model.whisper_resampler_llava.ori_embed_dim",
    "agent_model.whisper_resampler_llava.tgt_embed_dim",
    "train_dataset.datapipes.0.num_t5_out_tokens",
    "train_dataset.datapipes.0.num_aud_out_tokens",
]
WITH_DEFAULT = {
    "llm_model.peft_config.lora_dropout": 0.0,
    "seedx_dit_model_cfg.lm_loss_scale": 1.0,
    "seedx_dit_model_cfg.rec_loss_scale": 1.0,
    "seedx_dit_model_cfg.dit_loss_scale": 1.0,
    "seedx_dit_model_cfg.rec_loss_type": "mse",
}


@pytest.fixture(scope="module")
def merged() -> released.Released:
    return golden_weights.model()


def read(checkpoint: Path, **options) -> released.Released:
    return released.read(golden_weights.folders(checkpoint), **options)


def config_with(folder: Path, name: str, value: object) -> Path:
    """A config.yaml in which one key, by its dotted path, is another or absent."""
    config = copy.deepcopy(CONFIG)
    *above, last = [int(step) if step.isdigit() else step for step in name.split(".")]
    part = config
    for step in above:
        part = part[step]
    if value is ABSENT:
        del part[last]
    else:
        part[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_weights(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = checkpoint.parent / WEIGHTS
    path.unlink()
    torch.save(tensors, path)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def recorded_error(planner: Planner) -> float:
    """Of the states at the recorded script, as a share of the largest."""
    ids = torch.cat([SCRIPTED["prompt_ids"][0], SCRIPTED["generated_ids"][:-1]])
    with torch.no_grad():
        states = planner.states(ids[None])[0, len(SCRIPTED["prompt_ids"][0]) :]
    return ((states - SCRIPTED["hidden_last"]).abs().max() / SCRIPTED["hidden_last"].abs().max()).item()


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("keep_lora", [False, True], ids=["merged", "kept"])
def test_the_planner_gives_the_recorded_states_with_lora_merged_and_kept(golden_checkpoint, keep_lora):
    planner = read(golden_checkpoint, keep_lora=keep_lora).planner
    assert planner.has_lora == keep_lora
    error = recorded_error(planner)
    print(f"LoRA {'kept' if keep_lora else 'merged'}: {error:.1e} of the largest recorded state")
    assert error < 5e-5


def test_lora_that_was_kept_merges_to_what_is_read_merged(golden_checkpoint, merged):
    kept = read(golden_checkpoint, keep_lora=True).planner
    kept.merge_lora()
    ours, theirs = kept.state_dict(), merged.planner.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


def test_the_alpha_of_config_yaml_is_what_lora_is_scaled_by(checkpoint, merged):
    folder = config_with(checkpoint / "audiostory-tiny", "llm_model.peft_config.lora_alpha", 4)
    assert recorded_error(read(checkpoint).planner) > 1e-3
    assert released.read_config(folder).lora == LoraSettings(rank=4, alpha=4, dropout=0.05)


def test_everything_comes_in_eval_mode_and_off_the_meta_device(golden_checkpoint):
    system = read(golden_checkpoint, text_encoder=True)
    parts = [part for part in vars(system).values() if isinstance(part, nn.Module)]
    assert len(parts) == 6
    assert not any(module.training for part in parts for module in part.modules())
    held = [tensor for part in parts for tensor in [*part.parameters(), *part.buffers()]]
    assert {tensor.device.type for tensor in held} == {"cpu"}


def test_the_report_says_that_everything_was_used(merged):
    told = [str(report) for report in merged.reports.values()]
    assert told == [
        "182 loaded, 2 aliased, 0 ignored, 0 missing, 0 unexpected, 0 misshaped",
        "225 loaded, 0 aliased, 0 ignored, 0 missing, 0 unexpected, 0 misshaped",
    ]


def test_values_come_from_the_files_that_hold_them(merged):
    assert merged.config.feature_scale == merged.bridge.feature_scale == 10
    assert (merged.bridge.num_semantic, merged.bridge.num_residual) == (8, 4)
    assert merged.config.loss_weights == {"text": 1.0, "semantic": 0.5, "flow": 1.0}
    assert merged.config.lora == LoraSettings(rank=4, alpha=8, dropout=0.05)
    assert (merged.dit.fixed_frames, merged.dit.max_seconds, merged.dit.frame_rate) == (40, 30.0, 12.5)
    assert (merged.codec.sample_rate, merged.codec.hop) == (400, 32)
    assert merged.settings.repetition_penalty == 1.05
    assert merged.settings.lead_in == RELEASED_LEAD_IN
    assert merged.listener_projector is not None
    assert merged.listener_projector.num_tokens == 4


def test_the_bridge_holds_the_text_encoders_unconditional_tokens(merged):
    assert merged.text_encoder is not None
    torch.testing.assert_close(merged.bridge.unconditional, merged.text_encoder.unconditional(8), rtol=0, atol=0)


def test_the_text_encoder_is_let_go_unless_asked_for(golden_checkpoint, merged):
    without = read(golden_checkpoint)
    assert without.text_encoder is None
    assert torch.equal(without.bridge.unconditional, merged.bridge.unconditional)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep_lora", [False, True], ids=["merged", "kept"])
def test_all_but_the_text_encoder_and_the_duration_come_in_the_dtype_asked_for(golden_checkpoint, dtype, keep_lora):
    system = read(golden_checkpoint, dtype=dtype, keep_lora=keep_lora, text_encoder=True)
    for part in (system.planner, system.bridge, system.dit, system.codec.vae, system.listener_projector):
        assert part is not None
        for name, tensor in part.state_dict().items():
            assert tensor.dtype == (torch.float32 if name.startswith("duration_embedder.") else dtype), name
    assert system.text_encoder is not None
    assert {tensor.dtype for tensor in system.text_encoder.state_dict().values()} == {torch.float32}
    error = recorded_error(system.planner)
    print(f"{dtype}, LoRA {'kept' if keep_lora else 'merged'}: {error:.1e} of the largest recorded state")
    assert error < 0.1


def test_lora_is_merged_before_it_is_rounded(golden_checkpoint, merged):
    half = read(golden_checkpoint, dtype=torch.bfloat16).planner.state_dict()
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in merged.planner.state_dict().items())


def test_current_pefts_spelling_is_read_alike(checkpoint, merged):
    tensors = golden_weights.tensors(WEIGHTS)
    linear = re.compile(r"(seedx\.llm\..*_proj)\.(weight|bias)")
    write_weights(checkpoint, {linear.sub(r"\1.base_layer.\2", name): value for name, value in tensors.items()})
    assert sum(linear.fullmatch(name) is not None for name in tensors) == 3 * 10
    assert same(read(checkpoint).planner, merged.planner)


@pytest.mark.parametrize("spare", ["lm_head.weight", "model.embed_tokens.weight"])
def test_either_name_of_the_table_will_do(checkpoint, merged, spare):
    tensors = dict(golden_weights.tensors(WEIGHTS))
    del tensors[f"seedx.llm.base_model.model.{spare}"]
    write_weights(checkpoint, tensors)
    assert same(read(checkpoint).planner, merged.planner)


def test_the_wrappers_that_no_path_calls_are_passed_over(checkpoint, merged):
    tensors = dict(golden_weights.tensors(WEIGHTS))
    tensors["seedx.input_resampler.query"] = tensors["seedx.output_resampler.proj.weight"] = torch.ones(2)
    write_weights(checkpoint, tensors)
    system = read(checkpoint)
    assert next(iter(system.reports.values())).ignored == (
        "seedx.input_resampler.query",
        "seedx.output_resampler.proj.weight",
    )
    assert same(system.bridge, merged.bridge)


def test_without_a_listener_in_the_yaml_its_weights_are_strangers(checkpoint):
    config_with(checkpoint / "audiostory-tiny", "agent_model.whisper_resampler_llava", None)
    with pytest.raises(ValueError, match=r"4 unexpected: seedx\.whisper_resampler_llava\.aud_projector"):
        read(checkpoint)
    tensors = golden_weights.tensors(WEIGHTS)
    write_weights(checkpoint, {name: value for name, value in tensors.items() if "whisper_resampler" not in name})
    assert read(checkpoint).listener_projector is None


def test_ids_follow_the_order_of_the_names(merged):
    assert len(merged.vocabulary) == META["len_tokenizer"] == 388
    for name, ids in META["token_ids"].items():
        assert merged.vocabulary.encode(name) == ids, name


def test_texts_become_the_recorded_ids(merged):
    for case in META["tokenize_cases"]:
        assert merged.vocabulary.encode(case["text"]) == case["ids"]


def qwen_like(folder: Path, num_words: int = 151643) -> Path:
    """A tokenizer as large as Qwen2.5's: words for the BPE ids, and 22 added tokens."""
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(num_words)}, unk_token="w0"))
    named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    added = [*named, *(f"<|added_{index}|>" for index in range(22 - len(named)))]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in added])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return qwen_like(tmp_path_factory.mktemp("ckpt") / "Qwen2.5-3B-Instruct")


def read_vocabulary(qwen: Path, folder: Path, names: list[str], **changes):
    """With a file that numbers the names wrongly, as the released one does."""
    folder.mkdir(exist_ok=True)
    (folder / "added_tokens.json").write_text(
        json.dumps({name: 151938 + index % 7 for index, name in enumerate(names)})
    )
    config = released.read_config(golden_weights.GOLDEN / "ckpt_static/audiostory-tiny")
    values = {**vars(config), "num_semantic": 64, "num_residual": 8, "num_tokens": 152277, **changes}
    return released.read_vocabulary(qwen, folder / "added_tokens.json", released.ReleasedConfig(**values))


def test_over_qwens_tokenizer_the_ids_are_those_of_the_release(qwen, tmp_path):
    vocabulary = read_vocabulary(qwen, tmp_path, list(SPECIAL_TOKENS))
    spec = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "</t5>": 151665,
        "<video_padding>": 151666,
        "<timestamp>": 151667,
        "</timestamp>": 151668,
        "<t5>": 151669,
        "<t5_00000>": 151670,
        "<t5_00099>": 151769,
        "<aud>": 151770,
        "</aud>": 151771,
        "<aud_00000>": 151772,
        "<aud_00500>": 152272,
        "<|gen|>": 152273,
        "<|/gen|>": 152274,
        "<|think|>": 152275,
        "<|/think|>": 152276,
    }
    assert len(SPECIAL_TOKENS) == 612
    assert len(vocabulary) == 152277
    assert {name: vocabulary.tokenizer.token_to_id(name) for name in spec} == spec
    assert vocabulary.semantic_ids == tuple(range(151670, 151734))
    assert vocabulary.residual_ids == tuple(range(151772, 151780))
    assert vocabulary.encode("<t5><t5_00000>w7<t5_00001></t5>") == [151669, 151670, 7, 151671, 151665]


def swapped(names: tuple[str, ...]) -> list[str]:
    return [names[1], names[0], *names[2:]]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (swapped(SPECIAL_TOKENS), {}, r"added_tokens.json has the released names in another order"),
        (sorted(SPECIAL_TOKENS), {}, r"added_tokens.json has the released names in another order"),
        (
            [name for name in SPECIAL_TOKENS if name != "<aud_00500>"],
            {},
            r"adds 611, but the planner's table has 152277 rows",
        ),
        ([*SPECIAL_TOKENS, "<more>"], {}, r"adds 613, but the planner's table has 152277 rows"),
        (list(SPECIAL_TOKENS), {"num_tokens": 151936}, r"151665 tokens and .* adds 612, .* has 151936 rows"),
        (["<|im_end|>", *SPECIAL_TOKENS[1:]], {}, r"already holds <\|im_end\|>"),
        (["w7", *SPECIAL_TOKENS[1:]], {}, r"already holds w7"),
        ([*SPECIAL_TOKENS[:-4], *SPECIAL_TOKENS[-3:], ""], {}, r"the tokenizer lacks <\|gen\|>"),
        ([*SPECIAL_TOKENS, ""], {}, r"added_tokens.json: '' did not get the id of its place"),
        (list(SPECIAL_TOKENS), {"num_semantic": 101}, r"lacks <t5_00100>"),
        (list(SPECIAL_TOKENS[:4]), {"num_tokens": 151669}, r"the tokenizer lacks"),
    ],
)
def test_names_that_would_not_get_the_released_ids_are_refused(qwen, tmp_path, names, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_vocabulary(qwen, tmp_path, names, **changes)
    assert "added_tokens.json" in str(caught.value)


def test_a_smaller_base_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 122 tokens and .* the planner's table has 152277 rows"):
        read_vocabulary(qwen_like(tmp_path / "small", 100), tmp_path, list(SPECIAL_TOKENS))


def test_padding_and_truncation_of_a_tokenizers_file_are_passed_over(tmp_path):
    folder = qwen_like(tmp_path, 100)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(max_length=2)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(huggingface.read_tokenizer(folder).encode("<|im_end|>" * 3).ids) == 3


@pytest.mark.parametrize("name", READ_KEYS)
def test_a_key_that_config_yaml_lacks_is_named_and_never_guessed(tmp_path, name):
    with pytest.raises(ValueError, match=r"config\.yaml lacks .*which is never guessed; write it") as caught:
        released.read_config(config_with(tmp_path, name, ABSENT))
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert name in str(caught.value)


def test_the_shipped_llm_needs_no_key_of_its_own(tmp_path):
    config = released.read_config(config_with(tmp_path, "llm_model", ABSENT))
    assert (config.num_tokens, config.lora, config.language_model) == (152277, LoraSettings(), "ckpt/Qwen-tiny")


@pytest.mark.parametrize("name", WITH_DEFAULT)
def test_what_inference_does_without_may_be_absent(tmp_path, name):
    released.read_config(config_with(tmp_path, name, ABSENT))


@pytest.mark.parametrize("name", [*READ_KEYS, *WITH_DEFAULT])
def test_a_reference_in_config_yaml_is_an_error_that_says_to_write_the_value(tmp_path, name):
    with pytest.raises(ValueError, match=r"refers to '\$\{oc\.env:HOME\}', and references are not resolved") as caught:
        released.read_config(config_with(tmp_path, name, "${oc.env:HOME}"))
    assert name in str(caught.value)
    assert str(tmp_path / "config.yaml") in str(caught.value)


def test_a_reference_in_place_of_a_whole_block_is_an_error_too(tmp_path):
    with pytest.raises(ValueError, match=r"llm_model refers to '\$\{llm\}', and references are not resolved"):
        released.read_config(config_with(tmp_path, "llm_model", "${llm}"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seedx_dit_model_cfg.rec_loss_type", "kl", "rec_loss_type is 'kl', only 'mse' is known"),
        ("agent_model.whisper_resampler_llava.tgt_embed_dim", 32, "tgt_embed_dim .* is 32, only 64 is known"),
        ("llm_model.peft_config.target_modules", ["q_proj"], r"target_modules is \['q_proj'\], only"),
        ("llm_model.peft_config.target_modules", "all-linear", "target_modules is 'all-linear', only"),
        ("llm_model.peft_config.target_modules", [1, "q_proj"], "target_modules is"),
        ("llm_model.peft_config.modules_to_save", None, "modules_to_save is None, only"),
    ],
)
def test_what_the_weights_could_not_mean_is_refused(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        released.read_config(config_with(tmp_path, name, value))
    assert str(tmp_path / "config.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("llm_model.peft_config.r", 8, r"42 misshaped: .*lora_A.default.weight \[4, 64\], expected \[8, 64\]"),
        ("agent_model.model_dims", 32, r"tgt_embed_dim .* is 64, only 32 is known"),
        ("agent_model.whisper_resampler_llava.ori_embed_dim", 12, r"1 misshaped: .*\[64, 24\], expected \[64, 12\]"),
        ("llm_model.vocab_size", 389, r"adds 43, but the planner's table has 389 rows"),
        ("train_dataset.datapipes.0.num_t5_out_tokens", 21, r"lacks <t5_00020>"),
    ],
)
def test_a_config_yaml_of_other_weights_is_refused(checkpoint, name, value, message):
    config_with(checkpoint / "audiostory-tiny", name, value)
    with pytest.raises(ValueError, match=message):
        read(checkpoint)


def test_a_language_model_of_another_width_is_refused(checkpoint):
    edit(checkpoint / "Qwen-tiny/config.json", hidden_size=128)
    with pytest.raises(ValueError, match="model_dims 64, the language model is 128 wide; give the folder") as caught:
        read(checkpoint)
    assert str(checkpoint / "audiostory-tiny") in str(caught.value)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("Qwen-tiny", {"num_hidden_layers": 2}, "says 2 layers .* the weights hold 3"),
        ("Qwen-tiny", {"num_attention_heads": 8, "head_dim": 16}, r"asks for a q_proj of \[128, 64\], .*\[64, 64\]"),
        ("Qwen-tiny", {"num_key_value_heads": 4}, r"asks for a k_proj of \[64, 64\], the weights hold \[32, 64\]"),
        ("Qwen-tiny", {"intermediate_size": 95}, r"misshaped: .*gate_proj"),
        ("flan-t5-tiny", {"num_layers": 2}, "says 2 layers .* the weights hold 1"),
        ("flan-t5-tiny", {"d_model": 512}, "the text encoder's d_model is 512, the release's bridge is 1024 wide"),
        ("flan-t5-tiny", {"d_ff": 65}, "3 misshaped"),
        ("flan-t5-tiny", {"feed_forward_proj": "relu"}, "1 missing: .* 2 unexpected: "),
        ("Flux_detokenizer", {"num_layers": 2}, "says 2 layers .* the weights hold 1"),
        ("Flux_detokenizer", {"num_single_layers": 2}, "says 2 layers .* the weights hold 1"),
        ("Flux_detokenizer", {"joint_attention_dim": 512}, "TangoFlux's joint_attention_dim is 512, the release's"),
        ("Flux_detokenizer", {"num_attention_heads": 2}, "misshaped: "),
    ],
)
def test_a_configuration_of_another_network_is_refused(checkpoint, file, changes, message):
    edit(checkpoint / file / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read(checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_folders_are_found_as_seen_from_where_ckpt_lies(golden_checkpoint):
    folders = golden_weights.folders(golden_checkpoint)
    found = folders.find(released.read_config(folders.model), tangoflux.read_config(folders.tangoflux))
    qwen, t5 = golden_checkpoint / "Qwen-tiny", golden_checkpoint / "flan-t5-tiny"
    assert found == (qwen, qwen, t5)


def test_folders_are_found_from_within_the_folder_above(golden_checkpoint, monkeypatch):
    monkeypatch.chdir(golden_checkpoint)
    folders = golden_weights.folders(Path())
    found = folders.find(released.read_config(folders.model), tangoflux.read_config(folders.tangoflux))
    qwen, t5 = golden_checkpoint / "Qwen-tiny", golden_checkpoint / "flan-t5-tiny"
    assert [path.resolve() for path in found] == [qwen, qwen, t5]


def test_the_tokenizer_may_lie_apart_from_the_language_model(checkpoint):
    (checkpoint / "words").mkdir()
    (checkpoint / "Qwen-tiny" / "tokenizer.json").rename(checkpoint / "words" / "tokenizer.json")
    path = checkpoint / "audiostory-tiny" / "config.yaml"
    path.write_text(
        path.read_text().replace("pretrained_model_path: ckpt/Qwen-tiny", "pretrained_model_path: ckpt/words")
    )
    assert len(released.read(golden_weights.folders(checkpoint)).vocabulary) == 388


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_folders_are_found_under_their_last_name(checkpoint, merged, place):
    moved = checkpoint.rename(checkpoint.parent / "models")  # no ckpt/ any more
    if place == "inside":
        for file in ("Qwen-tiny", "tokenizer"):
            shutil.move(moved / file, moved / "audiostory-tiny" / file)
        shutil.move(moved / "flan-t5-tiny", moved / "Flux_detokenizer" / "flan-t5-tiny")
    # The list of added tokens is named with its folder; its last name is that of the file.
    names = next(moved.rglob("added_tokens.json"))
    names.rename((moved if place == "beside" else moved / "audiostory-tiny") / "added_tokens.json")
    assert same(read(moved).planner, merged.planner)


def test_folders_may_be_given(checkpoint, tmp_path, merged):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    qwen, t5 = (Path(shutil.move(checkpoint / name, elsewhere)) for name in ("Qwen-tiny", "flan-t5-tiny"))
    with pytest.raises(ValueError, match="names 'ckpt/Qwen-tiny' as its language model, and there is none"):
        read(checkpoint)
    folders = released.Folders(
        model=checkpoint / "audiostory-tiny",
        tangoflux=checkpoint / "Flux_detokenizer",
        language_model=qwen,
        text_encoder=t5,
    )
    assert same(released.read(folders).planner, merged.planner)


@pytest.mark.parametrize(
    ("absent", "what", "file"),
    [
        ("Qwen-tiny", "language model", "audiostory-tiny/config.yaml"),
        ("flan-t5-tiny", "text encoder", "Flux_detokenizer/config.json"),
        ("tokenizer/added_tokens.json", "list of added tokens", "audiostory-tiny/config.yaml"),
    ],
)
def test_an_absent_folder_is_named_with_every_place_it_was_looked_for(checkpoint, absent, what, file):
    path = checkpoint / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=f"as its {what}, and there is none at .*; put it there, or say") as caught:
        read(checkpoint)
    for named in (checkpoint / file, path, (checkpoint / file).parent / path.name, checkpoint / path.name):
        assert str(named) in str(caught.value)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("audiostory-tiny/config.yaml", "config.yaml is missing"),
        ("audiostory-tiny/pytorch_model.bin", "expected pytorch_model.bin or model.safetensors"),
        ("Flux_detokenizer/config.json", "config.json is missing"),
        ("Flux_detokenizer/model.safetensors", "expected vae.safetensors or model.safetensors"),
        ("Flux_detokenizer/vae_config.json", "says 5 layers .* the weights hold 3"),
        ("Qwen-tiny/config.json", "config.json is missing"),
        ("Qwen-tiny/tokenizer.json", "tokenizer.json is missing"),
        ("flan-t5-tiny/config.json", "config.json is missing"),
        ("flan-t5-tiny/tokenizer.json", "tokenizer.json is missing"),
    ],
)
def test_an_absent_file_is_named(checkpoint, absent, message):
    (checkpoint / absent).unlink()
    with pytest.raises(ValueError, match=message) as caught:
        read(checkpoint)
    assert str((checkpoint / absent).parent) in str(caught.value)


def test_weights_that_are_not_needed_may_be_absent(checkpoint, merged):
    for name in ("Qwen-tiny", "flan-t5-tiny"):
        (checkpoint / name / "model.safetensors").unlink()
    (checkpoint / "Qwen-tiny/generation_config.json").unlink()
    system = read(checkpoint)
    assert same(system.planner, merged.planner)
    assert system.settings.repetition_penalty == 1


def test_the_released_layout_is_known_by_its_yaml(golden_checkpoint):
    assert released.looks_released(golden_checkpoint / "audiostory-tiny")
    assert not released.looks_released(golden_checkpoint / "Flux_detokenizer")


def test_no_name_of_ours_is_left_over(merged):
    """Every tensor of the parts is in the report, so none keeps what it was built with."""
    loaded = next(iter(merged.reports.values())).loaded
    assert merged.text_encoder is not None
    parts = {"bridge": merged.bridge, "dit": merged.dit, "listener_projector": merged.listener_projector}
    ours = {f"{name}/{key}" for name, part in parts.items() for key in build.shapes_of(part)} - {"bridge/unconditional"}
    ours |= set(build.text_encoder_shapes(merged.text_encoder.model, "text_encoder/"))
    ours |= {f"planner/{name}" for name in build.planner_shapes(merged.planner)}
    assert ours <= set(loaded)
    assert {name.removeprefix("planner/").partition("/")[0] for name in set(loaded) - ours} == {"lora"}
