"""Checkpoints converted both ways: nothing changes on the way, memory stays low, nothing is left half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import commands
import golden_weights
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.model.planner import Planner
from audiostory.pipeline import AudioStoryPipeline
from audiostory.weights import convert, convert_back, files, ours, released, tangoflux, writing
from audiostory.weights.files import TensorFiles

BIN, VAE = "audiostory-tiny/pytorch_model.bin", "Flux_detokenizer/model.safetensors"
RELEASED_PARTS = [name for name in ours.CLASSES if name != "audio_encoder"]  # Whisper is not in the checkpoint (SPEC 1)


@pytest.fixture(scope="module")
def converted(golden_checkpoint, tmp_path_factory) -> Path:
    """Shared between tests: leave it as it is."""
    output = tmp_path_factory.mktemp("models") / "audiostory-tiny"
    convert.to_ours(golden_weights.folders(golden_checkpoint), output, progress=False)
    return output


@pytest.fixture(scope="module")
def merged(golden_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("models") / "merged"
    convert.to_ours(golden_weights.folders(golden_checkpoint), output, merge_lora=True, progress=False)
    return output


def assert_same_tensors(one: Path, other: Path) -> None:
    """Bit for bit, NaN included."""
    left, right = TensorFiles([one]), TensorFiles([other])
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert torch.equal(tensor.contiguous().view(torch.uint8), right[name].contiguous().view(torch.uint8)), name


def settled(part):
    """With its weights copied: sums come in another order where weights lie otherwise in memory, as mapped files do."""
    for tensor in (*part.parameters(), *part.buffers()):
        tensor.data = tensor.data.clone()
    return part


def there_and_back(checkpoint: Path, tmp_path: Path) -> Path:
    convert.to_ours(golden_weights.folders(checkpoint), tmp_path / "audiostory-tiny", progress=False)
    convert_back.to_released(tmp_path / "audiostory-tiny", tmp_path / "again", progress=False)
    return tmp_path / "again"


def test_there_and_back_every_tensor_is_the_same_to_the_bit(checkpoint, tmp_path):
    again = there_and_back(checkpoint, tmp_path)
    for name in (BIN, VAE):
        assert_same_tensors(checkpoint / name, again / name)


def test_half_precision_and_mixed_dtypes_stay_as_they_are(checkpoint, tmp_path):
    tensors = dict(golden_weights.tensors(f"ckpt/{BIN}"))
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    halved = {name: tensor.to(kinds[len(name) % 3]) for name, tensor in tensors.items()}
    halved |= {alias: halved[original] for alias, original in released.RELEASED.aliases.items()}
    (checkpoint / BIN).unlink()
    torch.save(halved, checkpoint / BIN)
    assert_same_tensors(checkpoint / BIN, there_and_back(checkpoint, tmp_path) / BIN)


def test_large_components_are_sharded_and_read_again(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SMALLEST_SHARD", 100_000)
    monkeypatch.setattr(convert, "LARGEST_SHARD", 150_000)
    again = there_and_back(checkpoint, tmp_path)
    model = tmp_path / "audiostory-tiny"
    for name in ("planner/model", "dit/diffusion_pytorch_model", "text_encoder/model"):
        assert (model / f"{name}.safetensors.index.json").is_file()
        assert not (model / f"{name}.safetensors").exists()
    assert_same_tensors(checkpoint / BIN, again / BIN)
    for name in RELEASED_PARTS:
        state = getattr(golden_weights.model(), name).state_dict()
        read = ours.read_component(model, name).state_dict()
        assert state.keys() == read.keys()
        assert all(torch.equal(state[key], read[key]) for key in state), name


def test_the_configuration_comes_back_as_it_was(checkpoint, tmp_path):
    again = there_and_back(checkpoint, tmp_path)
    before, after = (released.read_config(folder / "audiostory-tiny") for folder in (checkpoint, again))
    assert after == replace(before, added_tokens="again/tokenizer/added_tokens.json")
    for read in (tangoflux.read_config, tangoflux.read_vae_config):
        before, after = (read(folder / "Flux_detokenizer") for folder in (checkpoint, again))
        assert vars(before) | {"downsampling_ratios": 0} == vars(after) | {"downsampling_ratios": 0}
    files.verify_checksums(again / "audiostory-tiny", progress=False)
    assert "pytorch_model.bin" in (again / "audiostory-tiny" / "SHA256SUMS").read_text()


def test_what_came_back_is_read_as_a_released_checkpoint(checkpoint, tmp_path):
    again = there_and_back(checkpoint, tmp_path)  # Qwen and T5 are found in ckpt/, beside it, under their names
    for name, tensor in released.read(golden_weights.folders(again)).planner.state_dict().items():
        assert torch.equal(tensor, golden_weights.model().planner.state_dict()[name]), name


def test_a_model_that_never_was_a_released_one_gets_the_release_s_names(converted, tmp_path):
    model = copy_of(converted, tmp_path)
    (model / convert.EXTRAS).unlink()
    edit(model / "planner/lora/adapter_config.json", base_model_name_or_path=None)
    convert_back.to_released(model, tmp_path / "ckpt", progress=False)
    config = released.read_config(tmp_path / "ckpt" / "model")
    assert config.language_model == "ckpt/Qwen2.5-3B-Instruct"
    assert config.loss_weights == {"text": 1.0, "semantic": 1.0, "flow": 1.0}
    assert tangoflux.read_config(tmp_path / "ckpt" / "Flux_detokenizer").text_encoder_name == "ckpt/flan-t5-large"


@torch.no_grad()
def test_our_folder_computes_what_the_checkpoint_computed(converted):
    checkpoint = golden_weights.fresh_model()
    theirs = {name: settled(getattr(checkpoint, name)) for name in RELEASED_PARTS}
    model = {name: settled(ours.read_component(converted, name)) for name in RELEASED_PARTS}
    ids = torch.randint(0, 388, (2, 12), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(1))

    def outputs(planner, bridge, dit, codec, text_encoder, listener_projector) -> list[Tensor]:
        states = planner.states(ids)
        fused = bridge(BridgeTokens(semantic=states[:, :8], residual=states[:, 8:])).fused
        velocity = dit(noise, torch.tensor([0.5]), Condition(tokens=fused, seconds=torch.tensor([2.0, 3.0])))
        taught, heard = text_encoder.encode(["a dog barks"], 8), listener_projector(torch.ones(1, 9, 24))
        return [states, fused, bridge.unconditional, velocity, codec.decode(velocity), taught, heard]

    assert all(map(torch.equal, outputs(**theirs), outputs(**model)))


def test_the_whole_pipeline_reads_it_apart_or_merged(converted, merged):
    for folder in (converted, merged):
        pipeline = AudioStoryPipeline.from_pretrained(folder)
        assert asdict(pipeline.settings) == asdict(golden_weights.model().settings) | {"places": []}
        assert pipeline.vocabulary.tokenizer.to_str() == golden_weights.model().vocabulary.tokenizer.to_str()
        assert not pipeline.planner.has_lora


def test_lora_apart_and_merged_give_the_same_numbers(converted, merged):
    ids = torch.arange(20)[None]
    at_once = settled(ours.read_component(converted, "planner"))
    stored_merged = settled(ours.read_component(merged, "planner"))
    apart = ours.read_component(converted, "planner", keep_lora=True)
    states = at_once.states(ids)
    assert torch.equal(stored_merged.states(ids), states)
    assert apart.has_lora
    assert not apart.training
    torch.testing.assert_close(apart.states(ids), states, rtol=0, atol=2e-5)
    apart.merge_lora()
    torch.testing.assert_close(apart.states(ids), states, rtol=0, atol=2e-5)


def test_lora_read_apart_can_learn_on(converted):
    planner = ours.read_component(converted, "planner", keep_lora=True)
    expected = golden_weights.fresh_model(keep_lora=True).planner
    learning = {name for name, parameter in planner.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in expected.named_parameters() if parameter.requires_grad}
    assert any("lora_A" in name for name in learning)


def test_peft_reads_the_adapter_by_itself(converted):
    from peft import PeftModel
    from transformers import Qwen2ForCausalLM

    base = Qwen2ForCausalLM.from_pretrained(converted / "planner", dtype=torch.float32)
    language_model = PeftModel.from_pretrained(base, str(converted / "planner" / "lora"))
    states = Planner(language_model.eval()).states(torch.arange(20)[None])  # type: ignore[arg-type]
    expected = ours.read_component(converted, "planner").states(torch.arange(20)[None])
    torch.testing.assert_close(states, expected, rtol=0, atol=2e-5)


def test_the_folder_tells_nothing_of_where_it_was_made(converted, golden_checkpoint):
    for path in converted.rglob("*.json"):
        assert str(golden_checkpoint.parent) not in path.read_text(), path
        assert str(converted.parent) not in path.read_text(), path


def test_a_planner_with_lora_apart_is_not_read_without_it(converted):
    with pytest.raises(ValueError, match=r"keeps its LoRA apart.*AudioStoryPipeline.from_pretrained"):
        Planner.from_pretrained(converted / "planner")


def test_lora_is_not_kept_where_there_is_none(merged):
    with pytest.raises(ValueError, match="has no lora/"):
        ours.read_component(merged, "planner", keep_lora=True)


ADAPTER_DAMAGES = {
    "another scale": ({"use_rslora": True}, "use_rslora is True, only False is known"),
    "a scale of its own": ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern is"),
    "other targets": ({"target_modules": ["q_proj"]}, "target_modules is"),
    "no rank": ({"r": None}, "r is None, expected a whole number"),
    "a huge rank": ({"r": 10**400}, "r is a huge number, expected a whole number"),
    "a huge alpha": ({"lora_alpha": 10**400}, "lora_alpha is a huge number, expected a whole number"),
    "another rank": ({"r": 5}, r"misshaped: .*lora_A.weight \[4, 64\], expected \[5, 64\]"),
    "a wild dropout": ({"lora_dropout": 2}, "lora_dropout is 2"),
}


@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_an_adapter_that_means_something_else_is_refused(converted, tmp_path, damage):
    changes, message = ADAPTER_DAMAGES[damage]
    model = copy_of(converted, tmp_path)
    edit(model / "planner/lora/adapter_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        ours.read_component(model, "planner")


def test_a_truncated_adapter_is_named(converted, tmp_path):
    weights = copy_of(converted, tmp_path) / "planner/lora/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is damaged"):
        ours.read_component(tmp_path / "model", "planner")


NO_WAY_BACK = {
    "no text encoder": (lambda f: remove(f / "text_encoder"), "no text_encoder/"),
    "another fuser": (lambda f: edit(f / "bridge/config.json", num_heads=4), "says num_heads=4, which the released"),
    "any length": (lambda f: edit(f / "dit/config.json", fixed_frames=None), "says fixed_frames=None"),
    "another feature scale": (lambda f: edit(f / "bridge/config.json", feature_scale="a"), "feature_scale is 'a'"),
    "normalised latents": (lambda f: edit_weights(f / "codec", latent_std=torch.full((64,), 2.0)), "normalises its"),
    "a tensor more": (lambda f: edit_weights(f / "dit", more=torch.zeros(1)), "1 unexpected: more"),
    "wrong extras": (lambda f: edit(f / "released.json", loss_weights=[1]), "expected the text encoder's name"),
    "not a model": (lambda f: (f / "model_index.json").unlink(), "not an AudioStory model folder"),
}


@pytest.mark.parametrize("case", NO_WAY_BACK)
def test_what_the_released_layout_cannot_hold_is_refused_and_nothing_written(converted, tmp_path, case):
    do, message = NO_WAY_BACK[case]
    do(copy_of(converted, tmp_path))
    with pytest.raises(ValueError, match=message):
        convert_back.to_released(tmp_path / "model", tmp_path / "ckpt", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_merged_lora_has_no_way_back(merged, tmp_path):
    with pytest.raises(ValueError, match=r"has its LoRA merged.*without --merge_lora"):
        convert_back.to_released(merged, tmp_path / "ckpt", progress=False)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(golden_checkpoint, converted, tmp_path, monkeypatch, failure):
    steps: list[int] = []

    class Failing(writing.tqdm):
        def update(self, n=1):
            steps.append(int(n or 0))
            if sum(steps) > 5_000_000:  # of 39 MB: some files are written, others not
                raise failure
            return super().update(n)

    monkeypatch.setattr(writing, "tqdm", Failing)
    for run in (
        lambda: convert.to_ours(golden_weights.folders(golden_checkpoint), tmp_path / "a/model", progress=False),
        lambda: convert_back.to_released(converted, tmp_path / "b/ckpt", progress=False),
    ):
        steps.clear()
        with pytest.raises(type(failure)):
            run()
        assert sum(steps) > 5_000_000
        assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_process_left_is_cleared_away(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = [".ckpt.unfinished", ".ckpt.unfinished-notes", ".ckpt.unfinished-0", f".other.unfinished-{ended.pid}"]
    others = [*mine, f".ckpt.unfinished-{os.getppid()}"]  # alive, as we are its child
    for name in [*others, f".ckpt.unfinished-{ended.pid}", f".ckpt.unfinished-{os.getpid()}"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with writing.in_place_at_the_end(tmp_path / "ckpt") as aside:
        assert list(aside.iterdir()) == []
        assert {path.name for path in tmp_path.iterdir()} == {*others, aside.name}
    assert {path.name for path in tmp_path.iterdir()} == {*others, "ckpt"}


def test_of_two_conversions_to_one_output_the_first_to_finish_has_it(tmp_path):
    later = writing.in_place_at_the_end(tmp_path / "ckpt")
    (later.__enter__() / "file").touch()
    (tmp_path / "ckpt").mkdir()
    with pytest.raises(ValueError, match="exists and is not written over"):
        later.__exit__(None, None, None)
    assert [path.name for path in tmp_path.rglob("*")] == ["ckpt"]


def test_an_existing_output_is_not_written_over(golden_checkpoint, converted, tmp_path):
    with pytest.raises(ValueError, match="exists and is not written over"):
        convert.to_ours(golden_weights.folders(golden_checkpoint), tmp_path, progress=False)
    with pytest.raises(ValueError, match="exists and is not written over"):
        convert_back.to_released(converted, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_converts_both_ways_and_says_what_it_did(checkpoint, tmp_path, capsys):
    command = commands.load("scripts/convert_weights.py")
    paths = ["--model_path", str(checkpoint / "audiostory-tiny"), "--tangoflux_model", str(checkpoint / VAE[:16])]
    assert command.main([*paths, "--output", str(tmp_path / "models/tiny")]) == 0
    assert "182 loaded, 2 aliased, 0 ignored, 0 missing, 0 unexpected, 0 misshaped" in capsys.readouterr().out
    back = ["--to", "released", "--model_path", str(tmp_path / "models/tiny"), "--output", str(tmp_path / "again")]
    assert command.main(back) == 0
    assert "needs Qwen-tiny and flan-t5-tiny" in capsys.readouterr().out
    assert (tmp_path / "again/tiny/pytorch_model.bin").is_file()


MISTAKES = {
    "no such checkpoint": ("--model_path nowhere --tangoflux_model nowhere --output x", "nowhere"),
    "no TangoFlux": ("--model_path nowhere --output x", "nowhere/config.yaml is missing"),
    "no such model": ("--to released --model_path nowhere --output x", "no model folder at nowhere"),
    "an output that is there": ("--to released --model_path nowhere --output .", "exists and is not written over"),
    "options of the other way": ("--to released --model_path a --output x --merge_lora", "--merge_lora mean nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path, monkeypatch, capsys):
    line, message = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    assert commands.load("scripts/convert_weights.py").main(line.split()) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_stopped_by_hand_says_so(converted, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "save_file", stop)
    line = ["--to", "released", "--model_path", str(converted), "--output", str(tmp_path / "ckpt")]
    assert commands.load("scripts/convert_weights.py").main(line) == 130
    assert capsys.readouterr().err.endswith("stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


# The baseline is taken after all that is imported on the way; pages of mapped files count as memory.
MEASURED = """
import sys
from pathlib import Path

import peft.tuners.lora, peft.utils.save_and_load
from audiostory.weights import convert, convert_back, released

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

baseline = status("VmRSS")
way, source, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if way == "released":
    convert_back.to_released(source, output, progress=False)
else:
    folders = released.Folders(model=source / "audiostory-tiny", tangoflux=source / "Flux_detokenizer")
    convert.to_ours(folders, output, progress=False)
print(status("VmHWM") - baseline)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_conversion_needs_little_more_memory_than_the_file_is_long(checkpoint, tmp_path):
    """Less on the way there, where a shard at a time is mapped; on the way back the whole file is."""
    widen(checkpoint)
    convert.to_ours(golden_weights.folders(checkpoint), tmp_path / "model", progress=False)
    sources = {"ours": checkpoint, "released": tmp_path / "model"}
    running = {
        way: subprocess.Popen(
            [sys.executable, "-c", MEASURED, way, str(source), str(tmp_path / way)],
            stdout=subprocess.PIPE,
            cwd=commands.ROOT,
            text=True,
        )
        for way, source in sources.items()
    }
    num_bytes = (checkpoint / BIN).stat().st_size
    ratios = {way: int(process.communicate()[0]) / num_bytes for way, process in running.items()}
    print(f"peak memory over {num_bytes / 1e6:.0f} MB: {ratios}")
    assert_same_tensors(checkpoint / BIN, tmp_path / "released" / "model" / "pytorch_model.bin")
    assert num_bytes > 150e6
    assert max(ratios.values()) <= 1.3


def widen(checkpoint: Path, times: int = 20) -> None:
    """Makes the golden planner so many times as wide, with other weights: 0.2 GB."""
    config = checkpoint / "Qwen-tiny/config.json"
    sizes = json.loads(config.read_text())
    edit(config, hidden_size=times * sizes["hidden_size"], intermediate_size=times * sizes["intermediate_size"])
    path = checkpoint / "audiostory-tiny/config.yaml"
    content = yaml.safe_load(path.read_text())
    content["agent_model"]["model_dims"] *= times
    content["agent_model"]["whisper_resampler_llava"]["tgt_embed_dim"] *= times
    path.write_text(yaml.safe_dump(content))
    tensors = dict(golden_weights.tensors(f"ckpt/{BIN}"))
    for name, tensor in tensors.items():
        if name.startswith("seedx."):
            tensors[name] = torch.rand([size * times if size in (32, 64, 96) else size for size in tensor.shape])
    tensors |= {alias: tensors[original] for alias, original in released.RELEASED.aliases.items()}
    (checkpoint / BIN).unlink()
    torch.save(tensors, checkpoint / BIN)


def copy_of(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(part: Path, **changes: Tensor) -> None:
    path = part / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), **changes}, path, metadata={"format": "pt"})
