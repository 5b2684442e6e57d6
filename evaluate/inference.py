"""Tells a story: one instruction in, a folder of sound out.

    python evaluate/inference.py --instruction "a dog barks twice, then rain comes down" --total_duration 20

Without --model_path the bundled audiostory-mini tells it. The released checkpoint tells it too (docs/WEIGHTS.md):

    python evaluate/inference.py --model_path ckpt/audiostory-3B --tangoflux_model ckpt/Flux_detokenizer --guidance 4.0

The folder (evaluate/<save_folder_name>/, or --output) gets
story.wav, a WAV per event, storyline.json with captions and times, and story.png. It is filled only when all is done.

A model that listens also goes on from a recording, or answers a question about it:

    python evaluate/inference.py --audio field.wav --instruction "then the same sounds backwards" --total_duration 20
    python evaluate/inference.py --audio field.wav --question "What can be heard?"

What follows is then continuation.wav, and story.wav both together; an answer is printed and kept in answer.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.pipeline import AudioStoryPipeline, Settings, StoryAudio

SAMPLE_RATES = range(100, 192001)
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
EXAMPLE = "a dog barks twice, then thunder rolls and rain comes down"


def parser() -> argparse.ArgumentParser:
    """What is None by default is the model's own affair."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--instruction", "--generated_caption", metavar="TEXT", help="what should be heard, in words (an example)")
    add("--total_duration", type=float, default=50.0, metavar="SECONDS", help="how long the story lasts (50)")
    add("--audio", type=Path, metavar="FILE", help="a recording: --instruction says what follows it")
    add("--question", metavar="TEXT", help="ask this about --audio, in place of a story")
    add("--model_path", type=Path, metavar="DIR", help="the model's folder (the bundled audiostory-mini)")
    released = arguments.add_argument_group("the released checkpoint")
    more = released.add_argument
    more("--tangoflux_model", type=Path, metavar="DIR", help="the VAE and the DiT's sizes (Flux_detokenizer beside it)")
    more("--language_model", type=Path, metavar="DIR", help="Qwen2.5's folder (the one that config.yaml names)")
    more("--text_encoder", type=Path, metavar="DIR", help="Flan-T5's folder (the one that config.json names)")
    more("--added_tokens", type=Path, metavar="FILE", help="the list of added tokens (the one that config.yaml names)")
    more("--audio_encoder", type=Path, metavar="DIR", help="Whisper's folder, to listen to --audio with")
    more("--as_released", action="store_true", help="the release's own lengths, joins and noise (seed 0)")
    more("--batch-size", "--num-workers", type=int, metavar="N", help="taken and not used, as in the release")
    more("--llm_cfg_path", type=Path, metavar="FILE", help="its LoRA settings, if config.yaml leaves llm_model null")
    add("--seed", type=int, default=0, help="another seed: the same plan, rendered otherwise (0)")
    add("--steps", type=int, help="denoising steps (the model's own)")
    add("--guidance", type=float, help="how strictly the captions are followed; 1 turns it off (the model's own)")
    add(
        "--crossfade_sec",
        type=float,
        metavar="SECONDS",
        help="how long one event fades into the next (the model's own)",
    )
    add(
        "--max_new_tokens",
        type=_whole,
        default=1600,
        metavar="N",
        help="the longest script the planner may write (1600)",
    )
    add("--target_sr", type=int, metavar="HZ", help="resample the sound (the model's own rate)")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (cuda if there is one)")
    names = (*DTYPES, *DTYPES.values())
    add(
        "--dtype",
        choices=names,
        default="float32",
        metavar="TYPE",
        help="fp32, bf16 or fp16: what is computed in (fp32)",
    )
    add("--offload", action="store_true", help="keep each part on the GPU only while it works, for small cards")
    add("--save_folder_name", default="story", metavar="NAME", help="the story's folder inside evaluate/ (story)")
    add("--output", type=Path, metavar="DIR", help="the story's folder, anywhere")
    add("--audio_type", default="demo", metavar="LABEL", help="a label that is kept in storyline.json (demo)")
    add("--no-picture", action="store_true", help="leave out story.png")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        folder = _output_folder(options)
        _check(options)
        (_tell if options.question is None else _answer)(options, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; it is not imported here
            raise
        print("error: the GPU's memory is full; try --dtype bf16, then --offload", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be seen without the model; the pipeline checks the rest."""
    if options.instruction is not None and not options.instruction.strip():
        raise ValueError("--instruction is empty; say in words what should be heard")
    if options.audio is not None and not options.audio.is_file():
        raise ValueError(f"there is no recording {options.audio}; check --audio")
    if options.question is not None:
        if options.audio is None or options.instruction is not None:
            raise ValueError("--question asks about --audio, and about nothing that --instruction would tell")
        if not options.question.strip():
            raise ValueError("--question is empty; ask something about the recording")
    elif options.audio is not None and options.instruction is None:
        raise ValueError("--audio needs --instruction, to say what follows it, or --question, to ask about it")
    if not 0 < options.total_duration < math.inf:
        raise ValueError(f"--total_duration must be a positive number of seconds, got {options.total_duration}")
    if options.target_sr is not None and options.target_sr not in SAMPLE_RATES:
        raise ValueError(f"--target_sr must be {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} Hz, got {options.target_sr}")
    for name in ("tangoflux_model", "language_model", "text_encoder", "added_tokens", "audio_encoder", "llm_cfg_path"):
        if getattr(options, name) is not None and not _is_released(options):
            raise ValueError(
                f"--{name} goes with the released checkpoint, but --model_path {options.model_path} holds no "
                "config.yaml; leave it out, or give the released folder"
            )


def _output_folder(options: argparse.Namespace) -> Path:
    """Where the story will go; only looked at, so that a mistake shows before the work and leaves no trace."""
    name = options.save_folder_name
    if options.output is None and (not name or name != Path(name).name):
        raise ValueError(
            f"--save_folder_name is a folder's name inside evaluate/, got {name!r}; use --output for a path"
        )
    folder = (options.output or Path("evaluate") / name).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"nothing can be written into {nearest}; choose another --output")
    return folder


def _tell(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    if options.model_path is None:
        print("no --model_path given, so the bundled audiostory-mini tells the story", flush=True)
    if options.instruction is None:
        options.instruction = EXAMPLE
        print(f"no --instruction given, so here is an example: {EXAMPLE}", flush=True)
    from audiostory import sound
    from audiostory.story_files import save

    opening = None if options.audio is None else sound.read(options.audio)
    pipeline = _load(options)
    _introduce(pipeline.settings, options)
    loaded = time.perf_counter()
    told = pipeline(
        options.instruction,
        audio=opening,
        total_seconds=options.total_duration,
        seed=options.seed,
        steps=options.steps,
        guidance=options.guidance,
        crossfade_seconds=options.crossfade_sec,
        max_new_tokens=options.max_new_tokens,
        as_released=options.as_released,
    )
    if options.target_sr is not None:
        told = told.resample(options.target_sr)
    record = {
        "instruction": options.instruction,
        "model": str(options.model_path or "audiostory-mini"),
        "audio_type": options.audio_type,
        "max_new_tokens": options.max_new_tokens,
        "rendering": asdict(told.rendering),
        "device": str(pipeline.device),
        "dtype": options.dtype,
        **({} if options.audio is None else {"heard": str(options.audio)}),
    }
    files = save(told, folder, record, picture=not options.no_picture, opening=opening)
    _report(told, folder, files)
    print(f"told in {time.perf_counter() - loaded:.1f} s, after {loaded - started:.1f} s of loading")


def _answer(options: argparse.Namespace, folder: Path) -> None:
    pipeline = _load(options)
    answer = pipeline.describe(options.audio, options.question, max_new_tokens=options.max_new_tokens)
    record = {
        "question": options.question,
        "answer": answer,
        "heard": str(options.audio),
        "model": str(options.model_path or "audiostory-mini"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "answer.json").write_text(text, encoding="utf-8")
    print(answer or "(the model answers nothing)")


def _load(options: argparse.Namespace) -> AudioStoryPipeline:
    import torch
    from transformers.utils import logging

    from audiostory.pipeline import MINI, AudioStoryPipeline

    logging.disable_progress_bar()  # loading takes a second; the bars that follow are ours
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {device!r} here ({reason}); --device cpu works everywhere") from error
    if options.offload and device == "cpu":
        raise ValueError("--offload moves parts between the CPU and a GPU, and there is none to move to; leave it out")
    dtype = getattr(torch, str(DTYPES.get(options.dtype, options.dtype)))
    if _is_released(options):
        pipeline = AudioStoryPipeline.from_released(
            options.model_path,
            options.tangoflux_model,
            language_model=options.language_model,
            text_encoder=options.text_encoder,
            added_tokens=options.added_tokens,
            llm_config=options.llm_cfg_path,
            audio_encoder=options.audio_encoder,
            dtype=dtype,
        )
    else:
        pipeline = AudioStoryPipeline.from_pretrained(options.model_path or MINI, dtype=dtype)
    if options.offload:
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    return pipeline if device == "cpu" else pipeline.to(device)


def _is_released(options: argparse.Namespace) -> bool:
    return options.model_path is not None and (options.model_path / "config.yaml").is_file()


def _whole(text: str) -> int:
    """The release takes 1600.0 too."""
    number = float(text)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _introduce(settings: Settings, options: argparse.Namespace) -> None:
    """Which model tells, and what it can tell of when it knows a small world only."""
    strange = bool(settings.sounds) and not settings.known_sounds(options.instruction)
    if options.model_path is None:
        print("it knows a small world:")
    if strange:
        print(
            "warning: the instruction names no sound that this model knows; expect to hear something else",
            file=sys.stderr,
        )
    if settings.sounds and (strange or options.model_path is None):
        for label, names in (("sounds", settings.sounds), ("places", settings.places)):
            head = f"  {label}: "
            print(textwrap.fill(", ".join(names), 100, initial_indent=head, subsequent_indent=" " * len(head)))


def _report(told: StoryAudio, folder: Path, files: list[str]) -> None:
    print(f"\n{told.storyline.summary}" if told.storyline.summary else "")
    print(f"{'event':>5} {'start':>7} {'seconds':>8}  caption")
    for number, (event, (start, end)) in enumerate(zip(told.storyline.events, told.times, strict=True), 1):
        print(f"{number:5d} {start:7.1f} {end - start:8.1f}  {event.caption}")
    for problem in told.problems:
        print(f"note: {problem.message}")
    print(f"\n{told.story.seconds:.1f} s of sound at {told.story.sample_rate} Hz in {folder}:")
    for name in files:
        print(f"  {name}")


if __name__ == "__main__":
    sys.exit(main())
