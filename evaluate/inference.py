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

Many stories, planned and rendered together, each in a folder of its own inside --output:

    python evaluate/inference.py --input stories.jsonl --output stories
    torchrun --nproc_per_node 8 evaluate/inference.py --input stories.jsonl --output stories

A line is {"instruction": TEXT} and may hold "id" (the folder's name; the line's number without one), "total_seconds"
(--total_duration; null: the planner decides), "seed" (--seed) and "audio" (a recording to go on from). What was told
is not told again: a run that was stopped goes on, and a line that was changed is told anew. A line that cannot be meant
is named and left out; a story that the planner does not write leaves the reason in failure.json, and so does one that
memory does not hold, which the next run tries again. The exit code is then 1. What only a person can mend, as a damaged
model, ends the run; what was told stays.

One story, heard while it is planned: story.wav grows by an event at a time, or raw samples go to a player:

    python evaluate/inference.py --instruction "a dog barks twice, then rain comes down" --total_duration 20 --stream
    python evaluate/inference.py ... --stream - | ffplay -f f32le -ar 16000 -ch_layout mono -i -

Events then last as long as the planner's reasoning says; --wait_for_plan has them last as long as without --stream.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiostory.model import solvers
from audiostory.quick_imports import quick_imports

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.pipeline import AudioStoryPipeline, Settings, StoryAudio
    from audiostory.story import Instruction
    from audiostory.streaming import Part

SAMPLE_RATES = range(100, 192001)
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
EXAMPLE = "a dog barks twice, then thunder rolls and rain comes down"
LESS_MEMORY = (
    "try --max_batch_frames 1, --max_decode_frames 64 (and of many stories --max_batch_scripts 1), then --dtype bf16, "
    "then --int8, then --offload"
)
KEPT = "what was told stays; run it again to go on"
BATCHES = ("max_batch_scripts", "max_batch_frames", "max_decode_frames")  # the pipeline's own names
SETTINGS, FAILURE = "settings.json", "failure.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,119}")


def parser() -> argparse.ArgumentParser:
    """What is None by default is the model's own affair."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--instruction", "--generated_caption", metavar="TEXT", help="what should be heard, in words (an example)")
    add("--total_duration", type=float, default=50.0, metavar="SECONDS", help="how long the story lasts (50)")
    add("--audio", type=Path, metavar="FILE", help="a recording: --instruction says what follows it")
    add("--question", metavar="TEXT", help="ask this about --audio, in place of a story")
    add("--input", type=Path, metavar="FILE", help="many stories: a JSON line for each, told into folders of --output")
    add(
        "--stream",
        nargs="?",
        const="wav",
        choices=("wav", "-"),
        metavar="-",
        help="write the sound while the story is planned, into story.wav, or with - as raw float32 to stdout",
    )
    add("--wait_for_plan", action="store_true", help="stream when all is planned: the very story told without --stream")
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
    add(
        "--solver",
        metavar="NAME",
        help="how steps are taken: euler or ab2, or midpoint or heun, whose steps cost twice (the model's own)",
    )
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
    add(
        "--int8",
        action="store_true",
        default=None,
        help="keep the planner's and the DiT's weights in 8 bits, for small cards",
    )
    add(
        "--max_batch_scripts",
        type=int,
        metavar="N",
        help="stories of --input that are planned and rendered together (8); fewer take less memory and more time",
    )
    add(
        "--max_batch_frames",
        type=int,
        metavar="N",
        help="latent frames that are denoised together (4000); fewer take less memory, and 1 is a clip at a time",
    )
    add(
        "--max_decode_frames",
        type=int,
        metavar="N",
        help="latent frames that are decoded together (a whole clip); 64 take the least memory",
    )
    add(
        "--compile",
        action="store_true",
        help="compile planner and DiT, for many stories on a GPU: the first one waits for minutes (a CPU needs g++, "
        "and the mini gains nothing there)",
    )
    add("--offload", action="store_true", help="keep each part on the GPU only while it works, for small cards")
    add("--save_folder_name", default="story", metavar="NAME", help="the story's folder inside evaluate/ (story)")
    add("--output", type=Path, metavar="DIR", help="the story's folder, anywhere")
    add("--audio_type", default="demo", metavar="LABEL", help="a label that is kept in storyline.json (demo)")
    add("--no-picture", action="store_true", help="leave out story.png")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr), or 1 when of many
    stories not all were told."""
    options = parser().parse_args(argv)
    try:
        folder = _output_folder(options)
        _check(options)
        if options.input is not None:
            return _tell_many(options, folder)
        does = _answer if options.question is not None else _tell if options.stream is None else _stream
        does(options, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; it is not imported here
            raise
        print(f"error: the GPU's memory is full; {LESS_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "nothing was written" if options.stream is None else "what was heard stays"
        print(f"interrupted; {kept if options.input is None else KEPT}", file=sys.stderr)
        return 130
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be seen without the model; the pipeline checks the rest."""
    if options.solver is not None:
        solvers.check(options.solver)
    if options.instruction is not None and not options.instruction.strip():
        raise ValueError("--instruction is empty; say in words what should be heard")
    if options.audio is not None and not options.audio.is_file():
        raise ValueError(f"there is no recording {options.audio}; check --audio")
    if options.wait_for_plan and options.stream is None:
        raise ValueError("--wait_for_plan goes with --stream; any other story waits for its plan")
    if options.input is not None:
        if not options.input.is_file():
            raise ValueError(f"there is no file {options.input}; check --input")
        for name in ("instruction", "audio", "question", "as_released", "stream"):
            if getattr(options, name):
                raise ValueError(f"--{name} is about one story, and --input gives many; leave one of them out")
    elif options.stream is not None:
        for name in ("audio", "question", "as_released", "target_sr", "offload"):
            if getattr(options, name):
                raise ValueError(f"--{name} needs the whole story, and --stream does not wait for it; leave one out")
    elif options.question is not None:
        if options.audio is None or options.instruction is not None:
            raise ValueError("--question asks about --audio, and about nothing that --instruction would tell")
        if not options.question.strip():
            raise ValueError("--question is empty; ask something about the recording")
    elif options.audio is not None and options.instruction is None:
        raise ValueError("--audio needs --instruction, to say what follows it, or --question, to ask about it")
    for name in BATCHES:
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be 1 or more, got {value}")
    if options.compile and options.offload:
        raise ValueError(
            "--compile wants a model that stays where it is, and --offload moves it; leave one of them out"
        )
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


def _import() -> None:
    """What takes seconds, before anything else can ask for it more slowly."""
    with quick_imports():
        import audiostory.pipeline  # noqa: F401


def _tell(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    if options.model_path is None:
        print("no --model_path given, so the bundled audiostory-mini tells the story", flush=True)
    _take_example(options)
    _import()
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
        **_choices(options),
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
        "int8": bool(options.int8),
        **({} if options.audio is None else {"heard": str(options.audio)}),
    }
    files = save(told, folder, record, picture=not options.no_picture, opening=opening)
    _report(told, folder, files)
    print(f"told in {time.perf_counter() - loaded:.1f} s, after {loaded - started:.1f} s of loading")


def _take_example(options: argparse.Namespace) -> None:
    if options.instruction is None:
        options.instruction = EXAMPLE
        print(f"no --instruction given, so here is an example: {EXAMPLE}", flush=True)


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    """What all ways of telling are told alike."""
    return {
        "steps": options.steps,
        "guidance": options.guidance,
        "solver": options.solver,
        "crossfade_seconds": options.crossfade_sec,
        "max_new_tokens": options.max_new_tokens,
    }


def _stream(options: argparse.Namespace, folder: Path) -> None:
    sound_out = sys.stdout
    with redirect_stdout(sys.stderr if options.stream == "-" else sys.stdout):  # there is no room for words then
        parts = _streamed(options)
        if options.stream != "-":
            _keep_stream(parts, folder, options)
            return
        from audiostory.streaming import to_pcm

        for part in parts:
            to_pcm(sound_out.buffer, part.sound)


def _streamed(options: argparse.Namespace) -> Iterator[Part]:
    """The parts of the story, each told about when it is ready."""
    started = time.perf_counter()
    _take_example(options)
    _import()
    pipeline = _load(options)
    _introduce(pipeline.settings, options)
    parts = pipeline.stream(
        options.instruction,
        total_seconds=options.total_duration,
        seed=options.seed,
        **_choices(options),
        wait_for_plan=options.wait_for_plan,
    )
    print(f"{'ready':>7} {'start':>7} {'seconds':>8}  caption", flush=True)
    for part in parts:
        ready = time.perf_counter() - started
        print(f"{ready:7.1f} {part.event.start:7.1f} {part.event.seconds:8.1f}  {part.event.caption}")
        for problem in part.problems:
            print(f"note: {problem.message}")
        sys.stdout.flush()
        yield part


def _keep_stream(parts: Iterator[Part], folder: Path, options: argparse.Namespace) -> None:
    """story.wav, which grows, and at the end its record. An old story makes way when the first sound is there."""
    from audiostory.disk import write_text
    from audiostory.story_files import RECORD, make_way
    from audiostory.streaming import to_wav

    first = next(parts)
    make_way(folder)
    rate = first.sound.sample_rate
    num_samples, events, problems = 0, [], []
    with to_wav(folder / "story.wav", rate, first.sound.num_channels) as play:
        for part in chain([first], parts):
            play(part.sound)
            num_samples += part.sound.num_samples
            events.append(asdict(part.event))
            problems += [{**asdict(problem), "kind": problem.kind.value} for problem in part.problems]
    record = {
        "instruction": options.instruction,
        "model": str(options.model_path or "audiostory-mini"),
        "audio_type": options.audio_type,
        "seed": options.seed,
        "total_seconds": round(num_samples / rate, 4),
        "sample_rate": rate,
        "events": events,
        "audio": "story.wav",
        "problems": problems,
        "files": ["story.wav"],
    }
    write_text(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(f"\n{num_samples / rate:.1f} s of sound at {rate} Hz in {folder / 'story.wav'}")


class Wanted(NamedTuple):
    """A story of many: its folder's name, and all that its line asks for, with what the options add."""

    name: str
    instruction: str
    total_seconds: float | None
    seed: int
    audio: str | None

    def asked(self) -> Instruction:
        from audiostory.story import Instruction

        audio = None if self.audio is None else Path(self.audio)
        return Instruction(text=self.instruction, total_seconds=self.total_seconds, audio=audio)

    def is_told(self, folder: Path) -> bool:
        """Whether the folder has this very story."""
        from audiostory.story_files import RECORD

        return _read(folder / RECORD).get("asked") == self._asdict()

    def has_failed(self, folder: Path) -> bool:
        """Whether the folder says why this very story cannot be told, and trying again would not help."""
        failure = _read(folder / FAILURE)
        return failure.get("asked") == self._asdict() and not failure.get("try_again")


def _read(file: Path) -> dict[str, Any]:
    """What a record says; nothing where there is none, or one that is not ours."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _tell_many(options: argparse.Namespace, folder: Path) -> int:
    """Tells this process's share of the stories that are not told yet; the exit code."""
    from audiostory.processes import Place

    place = Place.of_environment()
    wanted, faults = read_wanted(options)
    settings = _checked_settings(options, folder)
    _import()
    for fault in faults if place.is_first else ():
        print(f"left out: {fault}", file=sys.stderr)
    mine = wanted[place.rank :: place.processes]
    left = [one for one in mine if not (one.is_told(folder / one.name) or one.has_failed(folder / one.name))]
    if left:
        _tell_left(options, folder, settings, left, f"telling{place}")
    untold = [one.name for one in mine if not one.is_told(folder / one.name)]
    print(f"{len(mine) - len(untold)} of {len(mine)} stories told into {folder}{place}")
    if failed := [name for name in untold if (folder / name / FAILURE).is_file()]:
        print(f"not told, see {FAILURE} in {', '.join(failed[:5])}{' ...' if failed[5:] else ''}", file=sys.stderr)
    place.wait_for_all()  # a process that ends with another code than 0 would end the others
    return int(bool(untold or faults))


def _tell_left(
    options: argparse.Namespace, folder: Path, settings: dict[str, Any], left: list[Wanted], doing: str
) -> None:
    """ValueError, with the story's name, for what a person has to mend; what was told before it stays."""
    import torch
    from tqdm.auto import tqdm

    from audiostory.disk import write_text
    from audiostory.pipeline import StoryError

    pipeline = _load(options)
    left = [one for one in left if _can_be_meant(one, pipeline, options.input)]
    began = time.perf_counter()
    told = pipeline.tell_many(
        [one.asked() for one in left], seeds=[one.seed for one in left], **_choices(options), progress=False
    )
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    with tqdm(total=len(left), desc=doing, unit="story") as bar:
        for number, (one, story) in enumerate(zip(left, told, strict=True), 1):
            if not isinstance(story, StoryError):
                _keep_story(one, folder / one.name, story, options)
            elif isinstance(story.__cause__, torch.OutOfMemoryError):
                _keep_failure(one, folder / one.name, f"memory does not hold it; {LESS_MEMORY}", try_again=True)
            elif story.__cause__ is not None:  # a failure would be kept and never tried again
                raise ValueError(f'the story "{one.name}" cannot be told: {story}; {KEPT}') from story
            else:
                _keep_failure(one, folder / one.name, str(story))
            bar.update()
            bar.set_postfix_str(f"{3600 * number / (time.perf_counter() - began):.0f} stories/hour")


def _can_be_meant(one: Wanted, pipeline: AudioStoryPipeline, file: Path) -> bool:
    """Whether this model can be asked that; if not, it is said why."""
    try:
        pipeline.check(one.asked())
    except (ValueError, OSError) as error:
        print(f'left out: {file}, the story "{one.name}": {error}', file=sys.stderr)
        return False
    return True


def _checked_settings(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the stories of a folder share; ValueError for one that was begun with others."""
    names = ("steps", "guidance", "solver", "crossfade_sec", "max_new_tokens", "target_sr", "dtype", "int8")
    settings = {name: getattr(options, name) for name in names}
    settings["model"] = str(options.model_path or "audiostory-mini")
    file = folder / SETTINGS
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    if others := [name for name, value in settings.items() if held.get(name) != value]:
        raise ValueError(
            f"the stories in {folder} were told with other settings than now ({', '.join(others)}: see {SETTINGS}); "
            "give the same ones, or another --output"
        )
    return settings


def _keep_story(one: Wanted, folder: Path, told: StoryAudio, options: argparse.Namespace) -> None:
    from audiostory import sound
    from audiostory.story_files import save

    _sweep(folder)
    (folder / FAILURE).unlink(missing_ok=True)  # first: a folder has a story or a failure, never both
    if options.target_sr is not None:
        told = told.resample(options.target_sr)
    record = {
        "instruction": one.instruction,
        "asked": one._asdict(),
        "model": str(options.model_path or "audiostory-mini"),
        "audio_type": options.audio_type,
        "rendering": asdict(told.rendering),
    }
    opening = None if one.audio is None else sound.read(one.audio)
    save(told, folder, record, picture=not options.no_picture, opening=opening)


def _keep_failure(one: Wanted, folder: Path, reason: str, try_again: bool = False) -> None:
    from audiostory.disk import write_text
    from audiostory.story_files import make_way

    make_way(folder)  # for the story of a line that was changed
    content = {"instruction": one.instruction, "asked": one._asdict(), "reason": reason, "try_again": try_again}
    write_text(folder / FAILURE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _sweep(folder: Path) -> None:
    """Takes away what `story_files.save` leaves beside the folder when it is killed."""
    unfinished = re.compile(re.escape(f".{folder.name}-") + "[a-z0-9_]{8}")
    for path in folder.parent.iterdir():
        if unfinished.fullmatch(path.name):
            shutil.rmtree(path)


def read_wanted(options: argparse.Namespace) -> tuple[list[Wanted], list[str]]:
    """The stories of the input file, and what is wrong with the lines that are none."""
    wanted: dict[str, Wanted] = {}
    faults = []
    for number, line in enumerate(options.input.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                one = _wanted(line, number, options)
                if one.name in wanted:
                    raise ValueError(f'its id "{one.name}" is that of a line before; give another')
            except ValueError as error:
                faults.append(f"{options.input}, line {number}: {error}")
            else:
                wanted[one.name] = one
    return list(wanted.values()), faults


def _wanted(line: bytes, number: int, options: argparse.Namespace) -> Wanted:
    """ValueError for a line that is not as it should be."""
    try:
        row: Any = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a character passes for JSON, and could not be written
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError('it must be an object, such as {"instruction": "rain, then a dog"}')
    if strange := sorted(set(row) - {"id", "instruction", "total_seconds", "seed", "audio"}):
        raise ValueError(f"it has {', '.join(strange)}, which is no key of a story")
    name = row.get("id", f"{number:06d}")
    total, seed, audio = (
        row.get("total_seconds", options.total_duration),
        row.get("seed", options.seed),
        row.get("audio"),
    )
    kinds = {
        "id": isinstance(name, str) and PLAIN_NAME.fullmatch(name) and name != SETTINGS,
        "instruction": isinstance(row.get("instruction"), str) and row["instruction"].strip(),
        "total_seconds": total is None or (type(total) in (int, float) and abs(total) < 1e9),
        "seed": type(seed) is int and 0 <= seed < 2**63,
        "audio": audio is None or isinstance(audio, str),
    }
    if wrong := [key for key, is_right in kinds.items() if not is_right]:
        expected = (
            "id a folder's name, instruction text, total_seconds a number or null, seed a whole number, audio a file"
        )
        raise ValueError(f"{' and '.join(wrong)} cannot be meant; expected: {expected}")
    return Wanted(name=name, instruction=row["instruction"], total_seconds=total, seed=seed, audio=audio)


def _answer(options: argparse.Namespace, folder: Path) -> None:
    _import()
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
    from audiostory.processes import Place

    logging.disable_progress_bar()  # loading takes a second; the bars that follow are ours
    device = Place.of_environment().device(options.device)
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
    if options.compile and device == "cpu" and shutil.which("g++") is None:
        raise ValueError("--compile needs a C++ compiler on a CPU, and there is no g++; install one, or leave it out")
    if options.int8:
        from audiostory.model.int8 import weights_to_int8

        weights_to_int8(pipeline.planner, pipeline.dit)
    for name in BATCHES:
        if getattr(options, name) is not None:
            setattr(pipeline, name, getattr(options, name))
    if options.offload:
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    pipeline = pipeline if device == "cpu" else pipeline.to(device)
    if options.compile:
        pipeline.compile()
    return pipeline


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
