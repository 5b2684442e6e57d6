"""Every stage at tiny size, each from the last one's export, down to a model that tells a story."""

import json
from pathlib import Path

import commands
import numpy as np
import pytest
import torch

from audiostory import composing, sound
from audiostory.dataset.store import Store
from audiostory.training import builders, config, journal

ROOT = Path(__file__).parents[2]
NUM_ROWS = 6
QUICK = (
    "model=tiny",
    "weights=mini",
    "runtime.autocast=none",
    "logger=none",
    "stage.steps=2",
    "stage.batch.rows=3",
    "stage.optimizer.warmup_steps=1",
    "stage.pace.log=1",
    "stage.pace.validate=2",
    "stage.pace.validate_batches=1",
    "stage.pace.listen=0",
)
LISTEN = ("stage.pace.listen=2", "stage.pace.listen_items=2")
CORPORA = ("clips-train", "clips-val", "stories-train", "stories-val", "continuations-train", "continuations-val")
HEARD = ("questions-train", "questions-val", "continuations-train", "continuations-val")


def script(name: str):
    return commands.load(f"scripts/{name}.py").main


def write_corpus(folder: Path, num_events: int, audio: bool = True, heard: bool = False) -> None:
    """Rows of short hums that differ in pitch, length and words; without `audio` the words alone. With `heard` each row
    holds a recording; a row of no events asks about it."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(NUM_ROWS):
        events, start = [], 0.0
        for event in range(num_events):
            seconds = round(1.0 + 0.2 * ((number + event) % 3), 1)
            time = np.arange(round(seconds * 16000)) / 16000
            samples = 0.3 * np.sin(2 * np.pi * 200 * (1 + number + event) * time)
            sound.write(folder / f"{number}-{event}.wav", sound.Waveform(samples=samples, sample_rate=16000))
            caption = f"hum number {number + event}"
            name = f"{number}-{event}.wav" if audio else None
            events.append({"caption": caption, "start": start, "seconds": seconds, "audio": name})
            start = round(start + seconds, 1)
        row = {"id": f"row-{number}", "instruction": f"{num_events} hums"}
        if heard:
            row["id"] = f"heard-{number}"
            time = np.arange(8000 + 4000 * number) / 16000
            samples = 0.3 * np.sin(2 * np.pi * 150 * (1 + number) * time)
            sound.write(folder / f"heard-{number}.wav", sound.Waveform(samples=samples, sample_rate=16000))
            row["heard"] = f"heard-{number}.wav"
        story = {"total_seconds": start, "summary": "hums", "events": events}
        lines.append(json.dumps({**row, **(story if events else {"answer": f"hum number {number}"})}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def run(stage: str, *overrides: str) -> bool:
    composed = config.compose(ROOT / "configs", [f"stage={stage}", *QUICK, *overrides])
    return builders.build(composing.build(config.RunConfig, composed), composed).start()


def encode(*more: str, corpora: tuple[str, ...] = CORPORA) -> None:
    for corpus in corpora:
        folder = f"corpora/{corpus}"
        assert script("encode_latents")([f"{folder}/manifest.jsonl", "--output", f"{folder}/latents", *more]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the whole sequence has been run; with DESIGN's two steps per stage."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for split in ("train", "val"):
            write_corpus(Path(f"corpora/clips-{split}"), 1)
            write_corpus(Path(f"corpora/stories-{split}"), 2)
            write_corpus(Path(f"corpora/continuations-{split}"), 1, heard=True)
            write_corpus(Path(f"corpora/questions-{split}"), 0, heard=True)
            write_corpus(Path(f"corpora/text-questions-{split}"), 0)
        texts = ("texts-train", "texts-mixed")
        for name in texts:
            write_corpus(Path(f"corpora/{name}"), 2, audio=False)
        manifests = ["corpora/clips-train/manifest.jsonl", "corpora/stories-train/manifest.jsonl"]
        sizes = ["--num_semantic", "4", "--num_residual", "2", "--vocab_size", "300", "--text_vocab_size", "300"]
        assert script("make_tokenizer")(["--manifest", *manifests, "--output", "runs/tokenizers", *sizes]) == 0
        assert run("codec", "stage.batch.crop_seconds=0.4", *LISTEN)
        encode("--codec", "runs/codec/export")
        assert run("tangoflux", *LISTEN)
        encode("--text_encoder", "runs/tangoflux/export", "--num_tokens", "4", corpora=(*CORPORA, *texts))
        assert run("hearing")
        encode("--audio_encoder", "runs/hearing/export", "--num_listening", "4", corpora=HEARD)
        for stage in ("planner", "reading", "stage1_warmup", "stage1"):
            assert run(stage)
        assert run("stage2", *LISTEN)
        assert run("stage3", *LISTEN)
    return folder


def test_the_last_stage_exports_a_model_that_the_pipeline_plays(trained):
    from audiostory.pipeline import AudioStoryPipeline
    from audiostory.story import Event, Storyline

    pipeline = AudioStoryPipeline.from_pretrained(trained / "runs/stage3/export")
    events = (Event(caption="hum number 1", seconds=1.2), Event(caption="hum number 2", seconds=1.0, start=1.2))
    plan = pipeline.plan_from_storyline(Storyline(summary="hums", events=events))
    told = pipeline.render(plan, steps=2, progress=False)
    assert told.story.seconds == pytest.approx(2.2, abs=0.01)
    assert np.isfinite(told.story.samples).all()


def test_the_bridge_takes_the_empty_texts_states_from_the_text_encoder(trained):
    from audiostory.weights import ours

    unconditional = ours.read_component(trained / "runs/stage3/export", "bridge").unconditional
    encoder = ours.read_component(trained / "runs/tangoflux/export", "text_encoder")
    torch.testing.assert_close(unconditional, encoder.unconditional(4))


def test_a_stage_exports_what_it_taught_or_was_given(trained):
    exports = (trained / "runs").glob("*/export")
    exported = {path.parent.name: sorted(part.name for part in path.iterdir()) for path in exports}
    assert exported["codec"] == ["codec"]
    assert exported["tangoflux"] == ["dit", "text_encoder"]
    assert exported["planner"] == exported["reading"] == ["planner", "tokenizer"]
    assert exported["stage1_warmup"] == ["bridge", "planner", "tokenizer"]
    assert exported["stage1"] == ["bridge", "codec", "dit", "model_index.json", "planner", "tokenizer"]
    listening = ["audio_encoder", "listener_projector"]
    assert exported["stage3"] == exported["stage2"] == sorted([*exported["stage1"], *listening])


def test_the_codec_is_exported_with_its_latents_normalised(trained):
    store = Store(trained / "corpora/clips-train/latents")
    latents = torch.cat([store.latents(f"row-{number}/0") for number in range(NUM_ROWS)])
    assert latents.mean(0).abs().max() < 1
    assert 0.3 < latents.std() < 3


def test_losses_are_logged_by_name(trained):
    first = journal.read(trained / "runs/stage3/log.jsonl")[0]
    parts = {"reason_count", "reason_content", "reason_caption"}
    assert {f"loss/{name}" for name in {"semantic", "text", "flow", "reason", *parts}} <= set(first)
    assert {
        "rate/planner",
        "rate/dit",
        "gradient_norm/total",
        "gradient_norm/dit",
        "padding_share/tokens",
        "padding_share/frames",
    } <= set(first)


def test_samples_are_written_to_listen_to(trained):
    assert (trained / "runs/codec/listen/step_000002/row-0_rebuilt.wav").is_file()
    assert (trained / "runs/tangoflux/listen/step_000002/row-0.wav").is_file()
    assert "the answer: hum number 0" in (trained / "runs/stage2/listen/step_000002/heard-0.txt").read_text()
    assert "<|think|>" in (trained / "runs/stage3/listen/step_000002/row-0.txt").read_text()


def test_the_curves_can_be_drawn(trained, tmp_path):
    output = tmp_path / "curves.png"
    assert (
        script("plot_run")([str(trained / "runs/stage1"), str(trained / "runs/stage3"), "--output", str(output)]) == 0
    )
    assert output.stat().st_size > 10000
    assert script("plot_run")([str(tmp_path)]) == 2


def test_encoding_again_keeps_what_fits_and_remakes_what_does_not(trained, monkeypatch):
    monkeypatch.chdir(trained)
    shard = trained / "corpora/clips-val/latents/latents-00000.safetensors"
    command = ["corpora/clips-val/manifest.jsonl", "--output", "corpora/clips-val/latents"]
    written, content = shard.stat().st_mtime_ns, shard.read_bytes()
    assert script("encode_latents")([*command, "--codec", "runs/codec/export"]) == 0
    assert shard.stat().st_mtime_ns == written
    shard.write_bytes(content[:100])
    assert script("encode_latents")([*command, "--codec", "runs/codec/export"]) == 0
    assert shard.read_bytes() == content


def test_a_changed_manifest_needs_new_latents(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    manifest = trained / "corpora/stories-val/manifest.jsonl"
    content = manifest.read_text()
    manifest.write_text(content + "\n")
    with pytest.raises(ValueError, match="another version of their manifest"):
        run("stage3", "output=runs/other")
    command = [str(manifest), "--output", "corpora/stories-val/latents", "--codec", "runs/codec/export"]
    assert script("encode_latents")(command) == 2
    assert "give --text_encoder as well" in capsys.readouterr().err
    manifest.write_text(content)


def test_training_goes_on_from_a_packed_model_that_does_not_tell_where_it_was_made(trained, monkeypatch):
    monkeypatch.chdir(trained)
    packed = ["--output", "packed/model", "--text_encoder", "runs/tangoflux/export"]
    assert script("pack_model")(["runs/stage3/export", *packed]) == 0
    assert not [path for path in Path("packed").rglob("*.json") if "stage3" in path.read_text()]
    assert run("stage3", "output=runs/more", "stage.start_from=packed/model")
    assert run("stage1_warmup", "output=runs/anew", "weights.text_encoder=packed/model")


def test_texts_beside_the_clips_give_their_own_losses_and_no_others(trained, monkeypatch):
    monkeypatch.chdir(trained)
    words = ("+stage.mixture.texts=1.0", "+stage.losses.reason=0.2", "stage.pace.validate=0")
    assert run("stage1", "output=runs/replay", *words)
    clips, texts = (
        {name.removeprefix("loss/") for name in line} for line in journal.read(Path("runs/replay/log.jsonl"))
    )
    assert {"semantic", "text", "reason", "flow"} <= clips
    assert {"semantic", "text", "reason"} <= texts
    assert "flow" not in texts


@pytest.mark.parametrize(("lacking", "option"), [("codec", "--codec"), ("text_encoder", "--text_encoder")])
def test_clips_that_were_encoded_by_half_are_refused_whatever_else_there_is(trained, monkeypatch, lacking, option):
    monkeypatch.chdir(trained)
    index = trained / "corpora/clips-train/latents/index.json"
    content = index.read_text()
    index.write_text(json.dumps({key: value for key, value in json.loads(content).items() if key != lacking}))
    with pytest.raises(ValueError, match=rf"clips-train/latents holds no .* {option}"):
        run("stage1", "output=runs/half", "+stage.mixture.texts=1.0")
    index.write_text(content)


def test_a_dit_of_one_length_learns_from_latents_of_that_length_alone(trained, monkeypatch):
    monkeypatch.chdir(trained)
    fixed = ("stage.start_from=null", "weights.dit=null", "model.dit.fixed_frames=40")
    with pytest.raises(ValueError, match=r"clips are each of .* own length, .* all of 40 frames .* --num_frames 40"):
        run("stage1", "output=runs/fixed", *fixed)
    sources = []
    for split in ("train", "val"):
        folder = Path(f"corpora/clips-{split}")
        command = [str(folder / "manifest.jsonl"), "--output", str(folder / "filled"), "--codec", "runs/codec/export"]
        more = ["--text_encoder", "runs/tangoflux/export", "--num_tokens", "4", "--num_frames", "40"]
        assert script("encode_latents")([*command, *more]) == 0
        sources.append(f"data.sources.clips.{split}_latents={folder / 'filled'}")
    assert run("stage1", "output=runs/fixed", *fixed, *sources)
    with pytest.raises(ValueError, match=r"all of 40 frames, .* own length .* without --num_frames"):
        run("stage1", "output=runs/unfixed", *sources)


@pytest.mark.parametrize(
    ("network", "made", "stage", "corpus"),
    [
        ("codec", "codec", "stage1", "clips"),
        ("text_encoder", "tangoflux", "stage1", "clips"),
        ("audio_encoder", "hearing", "stage2", "questions"),
    ],
)
def test_what_another_network_has_encoded_is_refused(trained, tmp_path, monkeypatch, network, made, stage, corpus):
    """Another one: the same with its weights mixed up."""
    from audiostory.weights import ours

    monkeypatch.chdir(trained)
    other = ours.read_component(trained / "runs" / made / "export", network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].reshape(parameter.shape))
    other.save_pretrained(tmp_path / network)
    with pytest.raises(ValueError, match=rf"what the {network} made of .*{corpus}.*run scripts/encode_latents\.py"):
        run(stage, "output=runs/others", f"weights.{network}={tmp_path}")


def test_a_loss_that_no_data_can_give_is_refused(trained, monkeypatch):
    monkeypatch.chdir(trained)
    alone = ("~stage.mixture.clips", "+stage.mixture.texts=1.0")
    with pytest.raises(ValueError, match=r"learns by latents, and no store of texts has any; .* --codec"):
        run("stage1", "output=runs/alone", *alone)


def test_a_stage_whose_start_is_not_there_says_what_to_train(trained, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=r"stage stage1 starts from other.*train that stage first"):
        run("stage1", "output=runs/new", "weights.dit=other")


def test_going_on_with_other_settings_is_refused_unless_it_is_meant(trained, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=r"stage\.losses\.kl: 1e-06 -> 0\.1"):
        run("codec", "stage.batch.crop_seconds=0.4", "stage.losses.kl=0.1")
    assert run("codec", "stage.batch.crop_seconds=0.4", "model.dit.num_layers=2", "stage.pace.save=7")
    assert run("codec", "stage.batch.crop_seconds=0.4", "stage.losses.kl=0.1", "accept_changes=true")


def test_a_corpus_that_is_not_there_says_how_to_make_it(trained, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=r"no manifest at nowhere/clips-train.*make_soundworld"):
        run("codec", "output=runs/new", "data.folder=nowhere")


def test_a_misspelt_size_of_a_component_is_named(trained, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=r"model\.codec\.latent_chanels; did you mean latent_channels"):
        run("codec", "output=runs/new", "+model.codec.latent_chanels=8")


def test_stages_learn_from_tar_shards_in_pieces_and_read_ahead(trained, monkeypatch):
    monkeypatch.chdir(trained)
    networks = ["--codec", "runs/codec/export", "--text_encoder", "runs/tangoflux/export", "--num_tokens", "4"]
    for split in ("train", "val"):
        folder = f"corpora/clips-{split}"
        command = [f"{folder}/manifest.jsonl", "--output", f"{folder}/shards", "--format", "shards", *networks]
        assert script("encode_latents")([*command, "--rows_per_shard", "4", "--tokenizer", "runs/tokenizers"]) == 0
    shards = [f"data.sources.clips.{split}=corpora/clips-{split}/shards" for split in ("train", "val")]
    assert run("stage1", "output=runs/from_shards", *shards, "runtime.micro_batches=2", "runtime.workers=1")
    lines = journal.read(Path("runs/from_shards/log.jsonl"))
    assert [line["step"] for line in lines if "loss/flow" in line] == [1, 2]
    assert [line["step"] for line in lines if "val/flow" in line] == [2]
    with pytest.raises(ValueError, match=r"reads recordings, and data\.sources\.clips names the folder"):
        run("codec", "output=runs/no_codec", *shards)
