"""Our model folders: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline
from audiostory.story import Event, Layout, Storyline
from audiostory.weights import ours
from audiostory.weights.ours import Settings

SETTINGS = Settings(
    steps=2, guidance=1.5, crossfade_seconds=0.25, sounds={"dog": ["dogs", "barks"]}, places=["a room"], solver="ab2"
)
STORY = Storyline(
    summary="s", events=(Event(caption="a dog", seconds=1.2), Event(caption="rain", seconds=1.0, start=1.2))
)
BRIDGE_WEIGHTS = "bridge/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def told_by() -> AudioStoryPipeline:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    return AudioStoryPipeline(*parts, SETTINGS)


@pytest.fixture(scope="module")
def saved(told_by, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    told_by.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def tell(pipeline: AudioStoryPipeline):
    return pipeline.render(pipeline.plan_from_storyline(STORY), progress=False).story.samples


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_saved_pipeline_tells_the_same_story(told_by, saved):
    loaded = AudioStoryPipeline.from_pretrained(saved)
    assert loaded.settings == SETTINGS
    assert not any(part.training for part in (loaded.planner, loaded.bridge, loaded.dit, loaded.codec))
    assert (tell(loaded) == tell(told_by)).all()


def test_a_folder_of_before_there_were_solvers_is_solved_by_euler(saved, tmp_path):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["solver"] == SETTINGS.solver == "ab2"
    old = shutil.copytree(saved, tmp_path / "old") / "model_index.json"
    old.write_text(json.dumps({key: value for key, value in index.items() if key != "solver"}))
    assert AudioStoryPipeline.from_pretrained(old.parent).settings == replace(SETTINGS, solver="euler")


def test_only_safetensors_and_json_are_written(saved):
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert {"model_index.json", "tokenizer/tokenizer.json", "planner/model.safetensors", BRIDGE_WEIGHTS} <= files
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}


def test_weights_stored_in_half_are_read_in_any_precision(told_by, saved, tmp_path):
    half = AudioStoryPipeline.from_pretrained(saved).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    assert load_file(tmp_path / BRIDGE_WEIGHTS)["unconditional"].dtype == torch.bfloat16
    assert (
        2 * (tmp_path / "planner/model.safetensors").stat().st_size
        < 1.1 * (saved / "planner/model.safetensors").stat().st_size
    )
    for dtype in (torch.float32, torch.bfloat16):
        loaded = AudioStoryPipeline.from_pretrained(tmp_path, dtype=dtype)
        assert loaded.planner.dtype == loaded.bridge.dtype == loaded.dit.dtype == loaded.codec.dtype == dtype
        assert abs(tell(loaded) - tell(told_by)).mean() < 0.1 * abs(tell(told_by)).mean()


def test_other_formats_are_refused(told_by, tmp_path):
    for options in ({"safe_serialization": False}, {"variant": "fp16"}):
        with pytest.raises(ValueError, match="only plain safetensors"):
            told_by.save_pretrained(tmp_path / "x", **options)


def test_the_text_encoder_may_lie_beside_the_others(folder):
    tiny.text_encoder().save_pretrained(folder / "text_encoder")
    edit(folder / "model_index.json", text_encoder=["audiostory.model.text_encoder", "TextEncoder"])
    AudioStoryPipeline.from_pretrained(folder)


LISTENING = {"audio_encoder": tiny.audio_encoder, "listener_projector": tiny.listener_projector}


def test_a_listening_model_is_saved_and_read_with_its_ears(told_by, tmp_path):
    common = (told_by.planner, told_by.vocabulary, told_by.bridge, told_by.dit, told_by.codec, SETTINGS)
    made = {name: make() for name, make in LISTENING.items()}
    AudioStoryPipeline(*common, **made).save_pretrained(tmp_path)
    assert ours.read_names(tmp_path) == (*ours.TELLING, *ours.LISTENING)
    loaded = AudioStoryPipeline.from_pretrained(tmp_path)
    for name, part in made.items():
        state = getattr(loaded, name).state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in part.state_dict().items())
        assert not getattr(loaded, name).training
    half = AudioStoryPipeline.from_pretrained(tmp_path, torch.float16)
    assert half.audio_encoder.dtype == half.listener_projector.dtype == torch.float16


@pytest.mark.parametrize("name", LISTENING)
def test_half_an_ear_is_kept_and_what_the_index_does_not_name_is_left(told_by, tmp_path, name):
    common = (told_by.planner, told_by.vocabulary, told_by.bridge, told_by.dit, told_by.codec, SETTINGS)
    AudioStoryPipeline(*common, **{name: LISTENING[name]()}).save_pretrained(tmp_path)
    for other in LISTENING.keys() - {name}:
        LISTENING[other]().save_pretrained(tmp_path / other)
    loaded = AudioStoryPipeline.from_pretrained(tmp_path)
    assert [getattr(loaded, part) is not None for part in LISTENING] == [part == name for part in LISTENING]


def test_a_deaf_folder_is_read_as_before(folder):
    assert ours.read_names(folder) == ours.TELLING
    loaded = AudioStoryPipeline.from_pretrained(folder)
    assert loaded.audio_encoder is loaded.listener_projector is None


@pytest.mark.parametrize("name", LISTENING)
def test_an_ear_that_the_index_names_must_be_there(folder, name):
    cls = ours.CLASSES[name]
    edit(folder / "model_index.json", **{name: [cls.__module__, cls.__name__]})
    with pytest.raises(ValueError, match=f"{name}/config.json is missing"):
        AudioStoryPipeline.from_pretrained(folder)
    edit(folder / "model_index.json", **{name: ["transformers", "WhisperModel"]})
    with pytest.raises(ValueError, match="other classes are never loaded"):
        AudioStoryPipeline.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_component_may_be_written_over_the_folder_it_was_read_from(folder, dtype):
    """While it is in use, and in another precision: nothing of it may be mapped from the old file."""
    tiny.text_encoder().save_pretrained(folder / "text_encoder")
    for name, make in LISTENING.items():
        make().save_pretrained(folder / name)
    for name in (*ours.TELLING, "text_encoder", *ours.LISTENING):
        part = ours.read_component(folder, name)
        before = {key: tensor.clone() for key, tensor in part.state_dict().items()}
        for path in (folder / name).glob("*.safetensors"):
            path.write_bytes(bytes(path.stat().st_size))  # in place, so that mapped pages would change
        assert all(torch.equal(before[key], tensor) for key, tensor in part.state_dict().items()), name
        part.to(dtype).save_pretrained(folder / name)
        part.save_pretrained(folder / name)
        after = ours.read_component(folder, name).state_dict()
        assert all(torch.equal(before[key].to(dtype).float(), after[key]) for key in before), name


def test_what_is_read_can_learn_and_draws_no_random_numbers(folder):
    state = torch.get_rng_state()
    for name in ours.TELLING:
        part = ours.read_component(folder, name)
        assert all(parameter.requires_grad for parameter in part.parameters())
        assert not any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers()))
        with torch.no_grad():
            for parameter in part.parameters():
                parameter += 1
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_that_is_written_tells_where_it_was_read(folder, tmp_path):
    AudioStoryPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "again").rglob("*.json"))


def test_duration_stays_in_single_precision(folder):
    dit = ours.read_component(folder, "dit", torch.float16)
    assert {tensor.dtype for tensor in dit.duration_embedder.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in dit.transformer.parameters()} == {torch.float16}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no folder": (shutil.rmtree, "no model folder at .*check the path"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "not an AudioStory model folder"),
    "released layout": (
        lambda f: ((f / "model_index.json").unlink(), (f / "pytorch_model.bin").touch()),
        "released system's layout: read it with AudioStoryPipeline.from_released .*scripts/convert_weights.py",
    ),
    "index not JSON": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json is not valid JSON"),
    "index not text": (
        lambda f: (f / "model_index.json").write_bytes(b"\xff\x00"),
        "model_index.json is not UTF-8 text",
    ),
    "index a list": (lambda f: (f / "model_index.json").write_text("[]"), "holds a list"),
    "other pipeline": (lambda f: edit(f / "model_index.json", _class_name="FluxPipeline"), "describes a FluxPipeline"),
    "other class": (lambda f: edit(f / "model_index.json", codec=["os", "system"]), "other classes are never loaded"),
    "other spare class": (
        lambda f: edit(f / "model_index.json", text_encoder=["os", "system"]),
        "other classes are never loaded",
    ),
    "misspelt setting": (lambda f: edit(f / "model_index.json", crossfade=3), "sets crossfade; known settings are"),
    "setting of another kind": (lambda f: edit(f / "model_index.json", steps="many"), "steps must be a number"),
    "solver of no name": (lambda f: edit(f / "model_index.json", solver="eulr"), "'eulr'; 'euler' was meant"),
    "sounds without words": (lambda f: edit(f / "model_index.json", sounds=["dog"]), "maps each name to the words"),
    "no component": (lambda f: shutil.rmtree(f / "dit"), "dit/config.json is missing"),
    "config not JSON": (lambda f: (f / "dit/config.json").write_text("nothing"), "dit/config.json is not valid JSON"),
    "config of another": (lambda f: edit(f / "dit/config.json", _class_name="Bridge"), "describes a 'Bridge'"),
    "config misshaped": (lambda f: edit(f / "bridge/config.json", planner_width=7), "misshaped: .*expected .*, 7]"),
    "planner misshaped": (lambda f: edit(f / "planner/config.json", hidden_size=48), "asks for a q_proj of"),
    "no weights": (lambda f: (f / BRIDGE_WEIGHTS).unlink(), "no weights in .*bridge: expected diffusion_pytorch_m"),
    "pickled weights": (
        lambda f: (f / BRIDGE_WEIGHTS).rename(f / "bridge/diffusion_pytorch_model.bin"),
        "no weights in .*bridge: expected diffusion_pytorch_model.safetensors;",
    ),
    "truncated": (lambda f: truncate(f / BRIDGE_WEIGHTS), r"header promises [\d,]+ bytes, the file has [\d,]+"),
    "truncated planner": (lambda f: truncate(f / "planner/model.safetensors"), "planner/model.safetensors is damaged"),
    "empty file": (lambda f: (f / BRIDGE_WEIGHTS).write_bytes(b""), "does not begin as a safetensors file"),
    "garbage": (lambda f: (f / BRIDGE_WEIGHTS).write_bytes(b"garbage" * 99), "does not begin as a safetensors file"),
    "not fetched": (
        lambda f: (f / BRIDGE_WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"),
        "git lfs pull",
    ),
    "missing shard": (
        lambda f: (
            (f / "planner/model.safetensors").rename(f / "planner/a.safetensors"),
            (f / "planner/model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}'),
        ),
        "lacks b.safetensors, which model.safetensors.index.json names",
    ),
    "missing tensor": (
        lambda f: edit_weights(f / BRIDGE_WEIGHTS, lambda t: t.pop("unconditional")),
        "1 missing: unconditional",
    ),
    "extra tensor": (
        lambda f: edit_weights(f / BRIDGE_WEIGHTS, lambda t: t.update(more=torch.zeros(1))),
        "1 unexpected: more",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "tokenizer/tokenizer.json is missing"),
    "tokenizer not JSON": (
        lambda f: (f / "tokenizer/tokenizer.json").write_text("{"),
        "tokenizer.json cannot be read as a vocabulary",
    ),
    "tokenizer of nothing": (lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"), "tokenizer.json cannot"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_the_file_and_the_reason(folder, damage):
    do, message = DAMAGES[damage]
    do(folder)
    with pytest.raises(ValueError, match=message) as caught:
        AudioStoryPipeline.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_the_layout_of_scripts_is_kept_and_its_absence_is_the_usual_one(told_by, folder):
    assert ours.read_index(folder).script == Layout()
    parts = {name: getattr(told_by, name) for name in ours.TELLING}
    ours.write_index(folder, parts, replace(SETTINGS, script=Layout(captions=False)))
    assert ours.read_index(folder).script == Layout(captions=False)
    index = json.loads((folder / "model_index.json").read_text())
    del index["script"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert ours.read_index(folder) == SETTINGS


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("short", "the setting script is .*short.*, expected true or false for reasoning, captions"),
        ({"reasoning": 1}, "expected true or false for reasoning, captions"),
        ({"summary": True}, "expected true or false for reasoning, captions"),
        ({"reasoning": False, "captions": False}, "without reasoning and without captions says nothing"),
    ],
)
def test_a_layout_that_is_none_is_refused(folder, said, message):
    edit(folder / "model_index.json", script=said)
    with pytest.raises(ValueError, match=f"model_index.json: .*{message}"):
        ours.read_index(folder)
