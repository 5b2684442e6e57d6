"""The released way tells our story; what is measured adds up; a mistake is one line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import commands
import pytest
import torch
from torch.testing import assert_close

from audiostory.model import tiny
from audiostory.model.inputs import BridgeTokens
from audiostory.model.planner import LoraSettings
from audiostory.pipeline import AudioStoryPipeline
from audiostory.story import Event, Instruction, Storyline, script
from audiostory.weights.ours import Settings

bench = commands.load("scripts/bench_inference.py")
arithmetic, equality, measure, ours, released_way, report, subjects = (
    importlib.import_module(f"bench.{name}")
    for name in ("arithmetic", "equality", "measure", "ours", "released_way", "report", "subjects")
)
CPU = torch.device("cpu")


def make(front: str = "waveform", fixed_frames: int | None = None) -> AudioStoryPipeline:
    dit = tiny.dit()
    dit.fixed_frames = fixed_frames
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), dit, tiny.codec(front=front))
    settings = Settings(steps=3, guidance=2.0, crossfade_seconds=0.25, repetition_penalty=1.05)
    return AudioStoryPipeline(*parts, settings)


@pytest.fixture(scope="module")
def pipeline() -> AudioStoryPipeline:
    return make()


@pytest.fixture(scope="module")
def model(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


def both(pipeline: AudioStoryPipeline, fill: bool = False):
    mine = ours.Ours(pipeline, CPU)
    planner = released_way.unmerged(pipeline.planner, LoraSettings())
    choices = {"steps": mine.steps, "guidance": mine.guidance, "fill": fill}
    return mine, released_way.ReleasedWay(pipeline, planner, tiny.text_encoder(), **choices)


# The released way


@pytest.mark.parametrize("fixed_frames", [None, 100])
def test_the_released_way_tells_the_same_story(fixed_frames):
    mine, theirs = both(make(fixed_frames=fixed_frames))
    story = subjects.scripted(mine.pipeline, 3, 1.3)
    one, other = mine.tell(story, seed=5), theirs.tell(story, seed=5)
    assert one.ids == other.ids == story.answer
    assert_close(list(one.latents), list(other.latents), rtol=0, atol=1e-4)
    assert_close(one.audio.story.samples, other.audio.story.samples, rtol=0, atol=1e-4)
    found = equality.compare(mine, one, other, seed=5)
    assert found.equal
    assert found.samples is not None
    assert 0 < found.latents_allowed < 1e-3


def test_what_the_planner_writes_by_itself_is_the_same_too():
    pipeline = make()
    pipeline.settings = replace(pipeline.settings, repetition_penalty=3.0)  # without it this one says the same for ever
    _, theirs = both(pipeline)
    prompt = script.prompt(Instruction(text="a dog"), pipeline.vocabulary)
    written = pipeline.planner.write(prompt, pipeline.vocabulary, max_new_tokens=40, repetition_penalty=3.0)
    assert theirs.write(prompt, max_new_tokens=40).ids == written.ids
    assert len(set(written.ids)) > 5


def test_another_story_is_not_taken_for_the_same(pipeline):
    mine, theirs = both(pipeline)
    story = subjects.scripted(pipeline, 2, 1.0)
    one = mine.tell(story, 0)
    assert not equality.compare(mine, one, theirs.tell(story, 1), seed=0).equal
    assert not equality.compare(mine, one, replace(one, ids=(*one.ids, 0)), seed=0).equal


def test_behind_griffin_lim_latents_alone_are_compared():
    mine, theirs = both(make(front="spectrogram"))
    story = subjects.scripted(mine.pipeline, 2, 1.0)
    found = equality.compare(mine, mine.tell(story, 0), theirs.tell(story, 0), seed=0)
    assert found.equal
    assert found.samples is None


def test_filled_clips_are_as_long_as_the_longest_and_their_own_latents_stay_the_same(pipeline, monkeypatch):
    mine, theirs = both(pipeline, fill=True)
    decoded = []
    decode = theirs._decode
    monkeypatch.setattr(theirs, "_decode", lambda clip, latents: decoded.append(len(latents)) or decode(clip, latents))
    story = subjects.scripted(mine.pipeline, 2, 1.0)
    one, other = mine.tell(story, 0), theirs.tell(story, 0)
    assert decoded == [tiny.MAX_SECONDS * tiny.FRAME_RATE] * 2
    found = equality.compare(mine, one, other, seed=0, samples=False)
    assert found.equal
    assert found.samples is None
    assert other.audio.story.seconds == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_nudged_by_one_rounding(pipeline, dtype):
    plan = pipeline.plan_from_storyline(
        Storyline(summary="x", events=(Event(caption="a dog", seconds=1.0, start=0.0),)), "a dog"
    )
    states = (3 * torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    tokens = BridgeTokens(semantic=states[None], residual=states[None, :1])
    moved = equality.nudged(replace(plan, bridge_tokens=tokens), 0).bridge_tokens.semantic[0]
    assert moved.dtype == dtype
    distance = torch.finfo(dtype).eps * 2.0 ** states.double().abs().log2().floor()  # to the next larger number
    error = (moved.double() - states.double()) / distance
    assert set(error.abs().unique().tolist()) == {0.0, 1.0}
    assert error.square().mean().sqrt() == pytest.approx(0.5, rel=0.02)  # that of half a distance everywhere
    assert error.mean().abs() < 0.01


@pytest.mark.parametrize("way", bench.WAYS)
@pytest.mark.parametrize(
    ("flags", "passed_on"),
    [
        (["--released_way"], ["--solver=euler"]),
        (["--solver", "heun", "--compile"], ["--solver=heun", "--compile"]),
        (["--int8", "--offload"], ["--offload", "--int8"]),
    ],
)
def test_a_process_of_its_own_computes_as_what_is_measured(monkeypatch, flags, passed_on, way):
    commands_run = []

    def run(command, **_):
        commands_run.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="{}\n", stderr="")

    monkeypatch.setattr(bench.subprocess, "run", run)
    bench._child(bench.parser().parse_args(flags), way, [2], warmup=0)
    theirs = ("--solver", "--compile", "--int8", "--offload")
    assert [flag for flag in commands_run[0] if flag.startswith(theirs)] == passed_on


def test_both_ways_know_positions_as_exactly_in_bfloat16():
    half = make().to(torch.bfloat16)
    for planner in (half.planner, released_way.unmerged(half.planner, LoraSettings())):
        assert planner.dtype == torch.bfloat16
        assert torch.equal(planner.qwen.model.rotary_emb.inv_freq, tiny.planner().qwen.model.rotary_emb.inv_freq)


def test_lora_that_adds_nothing_costs_no_second_model(pipeline):
    twin = released_way.unmerged(pipeline.planner, LoraSettings())
    assert twin.has_lora
    assert not pipeline.planner.has_lora
    assert twin.qwen.model.embed_tokens.weight is pipeline.planner.qwen.model.embed_tokens.weight


def test_weight_norm_is_put_back_where_it_was_folded(pipeline):
    latents = torch.randn(1, 7, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(0))
    wanted = pipeline.codec.decode(latents)
    folded = tiny.codec(front="waveform")
    for module in folded.modules():
        if hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)
    assert not any(name.endswith("_g") for name in folded.state_dict())
    again = released_way.unfolded(folded)
    assert any(name.endswith("_g") for name in again.state_dict())
    assert_close(again.decode(latents), wanted, rtol=0, atol=1e-6)


# What is measured


def test_phases_and_what_lies_between_are_the_whole(pipeline):
    story = subjects.scripted(pipeline, 3, 1.3)
    for way in both(pipeline):
        told = way.tell(story, 0)
        assert set(told.seconds) == set(report.PHASES)
        assert sum(told.seconds.values()) == pytest.approx(told.whole)
        assert all(seconds > 0 for seconds in told.seconds.values())
        assert told.seconds["other"] < 0.5 * told.whole


def test_the_stream_is_the_whole_story_and_its_first_part_comes_before_the_end(pipeline):
    mine, _ = both(pipeline)
    streamed = mine.stream(subjects.scripted(pipeline, 3, 1.3), 0)
    assert streamed.audio_seconds == pytest.approx(3.9)
    assert 0 < streamed.first < streamed.whole


def test_what_was_put_in_the_way_is_gone_afterwards(pipeline):
    both(pipeline)[0].tell(subjects.scripted(pipeline, 1, 1.0), 0)
    for owner, name in ((pipeline.bridge, "forward"), (pipeline.codec, "decode"), (pipeline.planner, "writing")):
        assert name not in vars(owner)
    assert "audiostory" in ours.telling.denoise.__module__


@pytest.mark.skipif(not measure.STATUS.is_file(), reason="own memory is read from /proc")
def test_a_peak_is_seen_though_it_is_gone_at_the_end():
    watch = measure.Watch(CPU)
    with watch.phase("small"):
        pass
    with watch.phase("large"):
        block = torch.ones(50_000_000)  # 200 MB
        while measure.own_memory() < 0.2:  # until it is there
            pass
        time.sleep(5 * measure.SAMPLING_SECONDS)
        del block
    assert watch.peaks["large"].own_gb > watch.peaks["small"].own_gb + 0.15


def test_medians_of_repeats_are_summed_over_stories():
    def run(whole: float) -> dict:
        seconds = {"plan": whole / 2, "denoise": whole / 4, "decode": whole / 4}
        return {"seconds": seconds, "whole": whole, "tokens": 100, "evaluations": 10, "audio_seconds": 8.0}

    found = report.summed([[run(1.0), run(9.0), run(2.0)], [run(4.0), run(4.0), run(4.0)]])
    assert found["whole"] == 6.0
    assert found["phases"]["plan"] == 3.0
    assert found["tokens_per_second"] == 200 / 3
    assert found["steps_per_second"] == 20 / 1.5
    assert found["real_time_factor"] == 16 / 6


def test_forward_costs_are_counted():
    layer, given = torch.nn.Linear(3, 7, bias=False), torch.ones(5, 3)
    found = arithmetic.cost(lambda: layer(given).relu(), 21)
    assert (found.flops, found.bytes) == (2 * 5 * 3 * 7, 42)
    assert found.calls == 2  # a product and relu; a transposed weight is a view
    assert found.times(3).flops == 3 * found.flops


# The command


def test_both_ways_side_by_side_in_a_table_and_in_a_file(model, tmp_path, capsys):
    flags = ["--model_path", str(model), "--events", "2", "--seconds", "1", "--repeats", "2", "--output", str(tmp_path)]
    assert bench.main([*flags, "--released_way", "--skip_memory"]) == 0
    told = capsys.readouterr().out
    assert "story 1: equal: the same ids" in told
    assert "LoRA: of rank 32, adding zero" in told
    assert "text encoder: left out, no Flan-T5 is 16 wide" in told
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["equality"][0]["equal"]
    assert found["stories"][0]["events"] == 2
    assert found["stories"][0]["recited"]
    for way in ("ours", "released_way"):
        assert set(found[way]["phases"]) == set(report.PHASES)
        assert found[way]["whole"] > 0
        for name in ("tokens_per_second", "steps_per_second", "real_time_factor", "first_audio"):
            assert found[way][name] > 0
    assert (found["steps"], found["solver"], found["guidance"]) == (3, "euler", 2.0)
    assert set(found["parameters"]) == {"planner", "bridge", "dit", "codec"}


def test_what_is_asked_compiled_is_compiled(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(AudioStoryPipeline, "compile", lambda pipeline: asked.append(pipeline.device))
    flags = ["--model_path", str(model), "--events", "1", "--seconds", "1", "--repeats", "1", "--warmup", "0"]
    assert bench.main([*flags, "--compile", "--skip_memory", "--output", str(tmp_path)]) == 0
    assert asked == [CPU]


def test_a_difference_ends_in_code_1(model, tmp_path, monkeypatch):
    decode = released_way.ReleasedWay._decode
    monkeypatch.setattr(
        released_way.ReleasedWay, "_decode", lambda self, clip, latents: decode(self, clip, 2 * latents)
    )
    flags = ["--model_path", str(model), "--events", "1", "--seconds", "1", "--repeats", "1", "--warmup", "0"]
    assert bench.main([*flags, "--released_way", "--skip_memory", "--output", str(tmp_path)]) == 1
    assert not json.loads((tmp_path / "bench.json").read_text())["equality"][0]["equal"]


def test_more_events_are_a_curve(model, tmp_path, monkeypatch, capsys):
    asked = []

    def child(options, way, events, warmup):
        asked.append((way, *events))
        peak = {"own_gb": 0.3, "gpu_gb": None}
        return {"way": way, "seconds": 0.1 * events[0], "audio_seconds": events[0], "first_at": 0.0, "peak": peak}

    monkeypatch.setattr(bench, "_child", child)
    assert bench.main(["--model_path", str(model), "--events", "1", "2", "4", "--output", str(tmp_path)]) == 0
    assert asked == [(way, events) for events in (1, 2, 4) for way in ("told", "streamed")]
    points = json.loads((tmp_path / "events.json").read_text())["points"]
    assert [point["events"] for point in points if point["way"] == "streamed"] == [1, 2, 4]
    assert (tmp_path / "events.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))
    assert "streamed" in capsys.readouterr().out


@pytest.mark.skipif(not measure.STATUS.is_file(), reason="own memory is read from /proc")
def test_a_process_of_its_own_tells_one_story(model):
    options = bench.parser().parse_args(["--model_path", str(model), "--seconds", "1"])
    found = bench._child(options, "streamed", [2], warmup=0)
    assert found["audio_seconds"] == 2.0
    assert found["peak"]["own_gb"] > 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--events", "0"], "--events must be 1 or more, got 0"),
        (["--seconds", "0"], "--seconds must be 0.1 to 60, got 0"),
        (["--repeats", "0"], "--repeats must be 1 or more, got 0"),
        (["--fill"], "--fill is a manner of --released_way"),
        (["--released_way", "--solver", "heun"], "the release's solver is euler"),
        (["--released_way", "--int8"], "leave out --int8"),
        (["--released_way", "--offload"], "leave out --offload or --released_way"),
        (["--released_way", "--compile"], "the DiT in common with ours"),
        (["--released_way", "--guidance", "1", "--events", "1"], "the release knows no story without guidance"),
        (["--solver", "oiler", "--events", "1"], "the solver must be"),
        (["--steps", "0", "--events", "1"], "steps must be in 1 .. 1000"),
        (["--device", "abacus"], "no device 'abacus' here"),
        (["--events", "200", "--seconds", "60"], "more than the 600 s that a story may last"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(model, tmp_path, capsys, flags, message):
    assert bench.main(["--model_path", str(model), "--output", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--events", "0"], ["--seconds", "28"], ["--tflops", "nan"]])
def test_arithmetic_of_what_cannot_be_ends_in_code_2(capsys, flags):
    assert arithmetic.main(flags) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_model_that_is_not_there_ends_in_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.main(["--model_path", "nowhere"]) == 2
    assert "no model folder at nowhere" in capsys.readouterr().err
    assert bench.main(["--scale", "3b"]) == 2
    assert "scripts/make_random_release.py" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["bench_inference.py", "bench_training.py", "bench/arithmetic.py"])
def test_help_loads_no_torch(script):
    probe = (
        f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_path('scripts/{script}', run_name='__main__')\n"
    )
    probe += "except SystemExit as ended: assert not ended.code\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=commands.ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
