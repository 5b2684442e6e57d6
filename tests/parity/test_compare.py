"""That our classes give what the released system gave, and that the comparison would notice if they did not."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import commands
import golden_weights
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from audiostory.parity import compare
from audiostory.parity.checks import Check, Subject
from audiostory.parity.recording import Recording

# What a check reads and compares with nothing: a changed input changes outputs, but not always by as much.
INPUTS = {
    "conditioning": {"durations"},
    "crossfade": {f"case{case}_in{index}" for case in range(6) for index in range(3)},
    "flow_loss": {"latents", "t5_tokens", "duration"},
    "sampler": {"fused", "fused_b"},
    "vae": {"encode_wave"},
    "generate_scripted": {"prompt_ids", "script_ids", "generated_ids"},
    "generate_free": {"prompt_ids", "generated_ids"},
    **dict.fromkeys(
        ("train_forward", "train_forward_audio_in"),
        {"input_ids", "attention_mask", "labels", "duration", "audio_latent", "caption_embeds", "audio_embeds"}
        | {"ids_t5_gen_mask", "ids_aud_gen_mask", "ids_cmp_mask", "embeds_cmp_mask"},
    ),
}
TENSOR_FILES = sorted(path.stem for path in (golden_weights.GOLDEN / "data").glob("*.safetensors"))


class Changed(Recording):
    """The golden recording, some of it told otherwise."""

    def __init__(self, tensors: Mapping[str, Mapping[str, Tensor]] | None = None, **files: Any):
        super().__init__(golden_weights.GOLDEN)
        self.tensors, self.files = tensors or {}, files

    def data(self, name: str) -> dict[str, Tensor]:
        return {**super().data(name), **self.tensors.get(name, {})}

    def json(self, name: str) -> dict[str, Any]:
        return self.files.get(name) or super().json(name)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return compare.load(golden_weights.RECORDING)


@pytest.fixture(scope="module")
def checks(subject: Subject) -> dict[str, Check]:
    return {check.name: check for check in compare.run(subject)}


def run(subject: Subject, file: str, recording: Recording) -> dict[str, Check]:
    changed = replace(subject, recording=recording)
    return {check.name: check for check in compare.run(changed, {file: compare.FILES[file]})}


def test_every_recorded_number_is_ours(checks):
    assert [str(check) for check in checks.values() if not check.passed] == []
    assert len(checks) > 150


def test_every_data_file_is_covered():
    names = {path.stem for path in (golden_weights.GOLDEN / "data").iterdir()}
    assert names - {"train_grad_norms"} == set(compare.FILES)  # those go with train_forward


@pytest.mark.parametrize("file", TENSOR_FILES)
def test_one_number_changed_by_ten_times_the_tolerance_is_noticed_in_every_tensor(subject, checks, file):
    generator = torch.Generator().manual_seed(0)
    changed, names = {}, []
    for key, tensor in golden_weights.data(file).items():
        if key in INPUTS.get(file, ()):
            continue
        name = f"{file}.{key}".replace("seedx.llm.base_model.model.model.", "")
        name = name.removesuffix("_out") if file == "crossfade" else name
        moved = tensor.clone()
        place = int(torch.randint(tensor.numel(), (), generator=generator))
        step = 10 * checks[name].tolerance or 1
        moved.view(-1)[place] += step if tensor.dtype != torch.bool else True
        changed[key] = ~tensor if tensor.dtype == torch.bool else moved
        names.append(name)
    found = run(subject, file, Changed({file: changed}))
    assert [name for name in names if found[name].passed] == []


@pytest.mark.parametrize("name", ["generate_scripted", "generate_free"])
@pytest.mark.parametrize("key", ["prompt_ids", "script_ids", "generated_ids"])
def test_another_id_is_noticed(subject, name, key):
    tensor = golden_weights.data(name).get(key)
    if tensor is not None:
        moved = tensor.clone()
        moved.view(-1)[7] += 1
        found = run(subject, name, Changed({name: {key: moved}}))
        assert not all(check.passed for check in found.values())


def test_a_changed_gradient_norm_sum_or_name_is_noticed(subject):
    recorded = golden_weights.RECORDING.json("train_grad_norms")
    name = "seedx.projector.0.weight"
    for place, tolerance in ((0, 1e-4), (1, 5e-4)):
        changed = copy.deepcopy(recorded)
        changed[name][place] += 10 * tolerance * max(abs(recorded[name][place]), recorded[name][0])
        kind = ("norms", "sums")[place]
        found = run(subject, "train_forward", Changed(train_grad_norms=changed))
        assert not found[f"train_grad_norms.{kind}"].passed
    without = {key: value for key, value in recorded.items() if key != name}
    assert not run(subject, "train_forward", Changed(train_grad_norms=without))["train_grad_norms.names"].passed


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("meta", ["token_ids", "<aud>"], [999]),
        ("meta", ["len_tokenizer"], 389),
        ("meta", ["tokenize_cases", 0, "ids", 0], 3),
        ("meta", ["tokenize_cases", 1, "decoded"], "other"),
        ("meta", ["extract_content_and_duration", 0, "duration"], "3.6"),
        ("meta", ["extract_content_and_duration", 0, "content"], "snow"),
        ("meta", ["edge_generation", "one_event_ok", 3], "abd"),
        ("meta", ["edge_generation", "another"], None),
        ("generate_scripted", ["generate_scripted", "reasoning"], "other"),
        ("generate_scripted", ["generate_scripted", "captions", 1], "two cats<timestamp>0.9</timestamp>"),
        ("generate_scripted", ["generate_scripted", "prompt"], "other"),
        ("generate_scripted", ["generate_scripted", "forced_by_bridge_positions", 0], 40),
        ("generate_free", ["generate_free", "text"], "other"),
        ("generate_free", ["generate_free", "eos_hit"], True),
        ("generate_free", ["generate_free", "result"], [[1, 8, 1024], [1, 4, 1024], ["rain"], "abc"]),
        ("train_forward", ["train_losses", "lm_loss"], 8.77),
        ("train_forward", ["n_trainable"], 9591553),
        ("train_forward", ["n_no_grad_but_trainable", 0], "seedx.projector.0.bias"),
        ("train_forward_audio_in", ["train_losses_audio_in", "total_loss"], 13.95),
        ("end_to_end", ["end_to_end", "clips", 0, "parsed_duration"], 1.3),
        ("end_to_end", ["end_to_end", "vae_sr"], 401),
        ("inference_main", ["inference_main", "wav_sample_rate"], 321),
        ("crossfade", ["crossfade", 0, "transition_sec"], 0.31),
        ("sampler", ["sampler", "guidance"], 4.01),
    ],
)
def test_a_changed_text_or_setting_is_noticed(subject, file, path, value):
    meta = copy.deepcopy(golden_weights.RECORDING.meta)
    place: Any = meta
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not all(check.passed for check in run(subject, file, Changed(meta=meta)).values())


def test_the_command_prints_a_line_per_check_and_counts(capsys, subject, monkeypatch):
    command = commands.load("scripts/check_parity.py")
    monkeypatch.setattr(compare, "load", lambda recording: subject)
    assert command.main([]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("    ")]
    assert all(line.endswith(" ok") for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} passed, 0 failed"


def test_the_command_fails_on_a_recording_that_says_otherwise(capsys, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(golden_weights.GOLDEN, folder)
    wave = golden_weights.data("vae")["wave"].clone()
    wave[0, 1, 77] += 1.2e-4
    save_file({**golden_weights.data("vae"), "wave": wave}, folder / "data" / "vae.safetensors")
    (folder / "data" / "crossfade.safetensors").unlink()
    assert commands.load("scripts/check_parity.py").main([str(folder)]) == 1
    out = capsys.readouterr().out
    failures = [line.split()[0] for line in out.splitlines() if line.endswith("FAIL")]
    assert failures == ["vae.wave", "crossfade"]
    assert out.splitlines()[-1].endswith("passed, 2 failed")


def test_what_is_no_recording_is_one_line_and_exit_code_2(capsys, tmp_path):
    command = commands.load("scripts/check_parity.py")
    assert command.main([str(tmp_path)]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("[]")
    assert command.main([str(tmp_path)]) == 2
    shutil.copytree(golden_weights.GOLDEN, tmp_path, dirs_exist_ok=True)
    manifest = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest.replace('"seed": 1234', '"seed": 1235'))
    assert command.main([str(tmp_path)]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err
