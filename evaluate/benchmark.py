"""Measures how well a model tells stories, on the sound world's test split, beside the best and the least it could do.

    python scripts/make_soundworld.py corpora/stories-test --split test --num 200
    python evaluate/train_ear.py --train corpora/clips-train --held-out corpora/clips-val --output runs/ear
    python evaluate/benchmark.py --manifest corpora/stories-test/manifest.jsonl --ear runs/ear --output runs/benchmark

The first --num stories are told into OUTPUT/told, a folder each, and scored against the truth; OUTPUT gets report.md
and report.json. The same command goes on where a stopped run was, and scores again without telling again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.benchmark.ear import Ear
    from audiostory.benchmark.items import Heard, ToldStory, TrueStory
    from audiostory.benchmark.soundworld import Confusion, Score
    from audiostory.model.codec import Codec
    from audiostory.pipeline import AudioStoryPipeline, StoryAudio

SYSTEMS = {
    "told": "the model, from the instruction alone",
    "oracle": "the model given the true storyline: what is lost here is not the planner's fault",
    "truth": "the corpus's own clips: the most that the ear can hear",
    "codec": "the corpus's clips through the model's codec: the most that the model can sound like",
    "shuffled": "chance: each story answered with another one's truth; for the cast, each event with the clip of the "
    "same sound from another story",
}
TOLD = ("told", "oracle")
MADE = (*TOLD, "codec")  # by the model, that is
SETTINGS = "settings.json"
PACKAGES = ("audiostory", "torch", "diffusers", "transformers")  # whose versions the report names


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--manifest", type=Path, required=True, metavar="FILE", help="the stories to tell, and the truth about them")
    add("--ear", type=Path, required=True, metavar="DIR", help="the listener that evaluate/train_ear.py trained")
    add("--output", type=Path, required=True, metavar="DIR", help="told stories and the report")
    add("--model_path", type=Path, metavar="DIR", help="the model's folder (the bundled audiostory-mini)")
    add("--num", type=int, default=200, help="how many stories, from the first on (200)")
    add("--seed", type=int, default=0, help="another seed, other noise to start from (0)")
    add("--steps", type=int, help="denoising steps (the model's own)")
    add("--guidance", type=float, help="1 turns it off (the model's own)")
    add(
        "--systems",
        nargs="+",
        choices=[name for name in SYSTEMS if name != "oracle"],
        default=["told", "truth", "codec", "shuffled"],
        help="the columns of the report (told truth codec shuffled)",
    )
    add("--oracle", action="store_true", help="one column more: the model given the true storyline")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (cuda if there is one)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    asked = {*options.systems, *(["oracle"] if options.oracle else [])}
    try:
        measure(options, [name for name in SYSTEMS if name in asked])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def measure(options: argparse.Namespace, systems: Sequence[str]) -> None:
    """Tells what is not told yet, listens to everything, and writes the report."""
    from audiostory.benchmark import items, report
    from audiostory.benchmark.ear import Ear

    began = time.perf_counter()
    truths = _truths(options, systems)
    ear, ear_facts = Ear.load(options.ear)
    model = Model(options) if set(systems) & set(MADE) else None
    stories = {"truth": [items.as_told(truth, [e.audio for e in truth.events if e.audio]) for truth in truths]}
    for system in systems:
        if model and system == "codec":
            stories[system] = [items.as_told(truth, clips) for truth, clips in _coded(model, truths)]
        elif model and system in TOLD:
            stories[system] = _told(model, truths, system)
    answers = {name: _listen(ear, name, stories[name]) for name in stories if name in systems or "shuffled" in systems}
    facts = {
        "versions": _versions(),
        "manifest": {"file": str(options.manifest), "sha256": _sha256(options.manifest), "stories": len(truths)},
        "ear": {"sha256": _sha256(options.ear / "ear.safetensors"), **ear_facts},
        "model": {"name": str(options.model_path or "audiostory-mini"), **model.settings} if model else None,
        "seconds_to_tell": {name: _seconds_to_tell(options.output / name, truths) for name in TOLD if name in stories},
        "seconds_of_this_run": round(time.perf_counter() - began, 1),
    }
    page = report.Report(
        title=f"{len(truths)} stories of the sound world",
        columns={name: _scores(name, truths, stories, answers) for name in systems},
        about={name: SYSTEMS[name] for name in systems},
        notes=_notes(truths, stories),
        hardest=_hardest(stories, answers),
        facts=facts,
    )
    report.write(options.output, page)
    print(f"\n{report.table(page.columns)}")
    for note in page.notes:
        print(f"note: {note}")
    print(f"written to {options.output / 'report.md'} and report.json")


class Model:
    """The model under test and what it has made so far. It is loaded only when something is left to make.

    ValueError for a folder that is no model, and for an output made with other settings.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from audiostory.pipeline import MINI
        from audiostory.weights import ours

        self.folder, self.output, self.device = options.model_path or MINI, options.output, options.device
        own = ours.read_index(self.folder)
        self.settings = {
            "model_sha256": _fingerprint(self.folder),
            "manifest_sha256": _sha256(options.manifest),
            "seed": options.seed,
            "steps": own.steps if options.steps is None else options.steps,
            "guidance": own.guidance if options.guidance is None else options.guidance,
        }
        self._check_settings()

    @cached_property
    def pipeline(self) -> AudioStoryPipeline:
        import torch
        from transformers.utils import logging

        from audiostory.pipeline import AudioStoryPipeline

        logging.disable_progress_bar()  # loading takes a second; the bars that follow are ours
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"there is no device {device!r} here ({reason}); --device cpu works everywhere") from error
        return AudioStoryPipeline.from_pretrained(self.folder).to(device)

    def tell(self, truth: TrueStory, system: str) -> StoryAudio:
        choices: dict[str, Any] = {name: self.settings[name] for name in ("steps", "guidance")}
        # Every story has noise of its own, the same one however many stories are told.
        choices |= {"seed": crc32(f"{self.settings['seed']} {truth.id}".encode()), "progress": False}
        if system == "told":
            return self.pipeline(truth.instruction, **choices)
        return self.pipeline.render(self.pipeline.plan_from_storyline(truth.storyline, truth.instruction), **choices)

    def keep_settings(self) -> None:
        """Called before anything is written: what stands in the output was made with these settings."""
        if not (self.output / SETTINGS).exists():
            _write_json(self.output / SETTINGS, self.settings)

    def _check_settings(self) -> None:
        file = self.output / SETTINGS
        if not file.exists():
            return
        try:
            held = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}); delete {self.output} and tell all again") from error
        if different := [name for name in self.settings if held.get(name) != self.settings[name]]:
            listed = ", ".join(f"{name} {held.get(name)} (now {self.settings[name]})" for name in different)
            raise ValueError(
                f"the stories in {self.output} were told otherwise: {listed}; choose another --output, or delete it"
            )


def _truths(options: argparse.Namespace, systems: Sequence[str]) -> list[TrueStory]:
    from audiostory.benchmark.items import read_truth

    if options.num < 1 or ("shuffled" in systems and options.num < 2):
        raise ValueError(f"--num must be at least 1, and 2 to shuffle; got {options.num}")
    truths = read_truth(options.manifest)
    if len(truths) < options.num:
        raise ValueError(
            f"{options.manifest} holds {len(truths)} stories, {options.num} were asked: give --num {len(truths)}, "
            "or write more with scripts/make_soundworld.py"
        )
    truths = truths[: options.num]
    clips = [event.audio for truth in truths for event in truth.events]
    if set(systems) & {"truth", "codec", "shuffled"} and not all(clip and clip.is_file() for clip in clips):
        raise ValueError(
            f"{options.manifest} lacks the audio of its events, which truth, codec and shuffled need; write it with "
            f"audio, into a new folder:\n  python scripts/make_soundworld.py FOLDER --split test --num {options.num}\n"
            "or ask for --systems told"
        )
    return truths


def _told(model: Model, truths: Sequence[TrueStory], system: str) -> list[ToldStory]:
    """The stories of one system, told now if they were not before. One that cannot be told leaves a note of why."""
    from tqdm.auto import tqdm

    from audiostory.benchmark.items import FAILURE, RECORD, read_told
    from audiostory.pipeline import StoryError
    from audiostory.story_files import save

    folders = [model.output / system / truth.id for truth in truths]
    done = [(folder / RECORD).is_file() or (folder / FAILURE).is_file() for folder in folders]
    with tqdm(total=len(truths), initial=sum(done), desc=f"telling ({system})", unit="story") as bar:
        for truth, folder, is_done in zip(truths, folders, done, strict=True):
            if is_done:
                continue
            began = time.perf_counter()
            try:
                story = model.tell(truth, system)
            except StoryError as error:
                model.keep_settings()
                _write_json(folder / FAILURE, {"instruction": truth.instruction.text, "reason": str(error)})
            else:
                model.keep_settings()
                record = {
                    "instruction": truth.instruction.text,
                    "rendering": asdict(story.rendering),
                    "seconds_to_tell": round(time.perf_counter() - began, 3),
                }
                save(story, folder, record, picture=False)
            bar.update()
    return [read_told(folder) for folder in folders]


def _coded(model: Model, truths: Sequence[TrueStory]) -> list[tuple[TrueStory, list[Path]]]:
    """The true clips encoded and decoded, as files."""
    from tqdm.auto import tqdm

    coded = []
    for truth in tqdm(truths, desc="encoding and decoding", unit="story"):
        folder = model.output / "codec" / truth.id
        files = [folder / f"event_{number:02d}.wav" for number in range(1, len(truth.events) + 1)]
        for event, file in zip(truth.events, files, strict=True):
            if event.audio and not file.is_file():
                model.keep_settings()
                _through(model.pipeline.codec, event.audio, file)
        coded.append((truth, files))
    return coded


def _through(codec: Codec, source: Path, target: Path) -> None:
    import torch

    from audiostory import sound

    clip = sound.resample(sound.read(source), codec.sample_rate)
    samples = torch.from_numpy(clip.samples).mean(0).expand(1, codec.config["audio_channels"], -1)
    with torch.inference_mode():
        decoded = codec.decode(codec.encode(samples.to(codec.device)), num_samples=clip.num_samples)[0]
    sound.write(target, sound.Waveform(samples=decoded.cpu().numpy(), sample_rate=codec.sample_rate))


def _listen(ear: Ear, system: str, stories: Sequence[ToldStory]) -> list[list[Heard]]:
    heard = iter(ear.hear([clip for story in stories for clip in story.clips], progress=f"listening ({system})"))
    return [list(islice(heard, len(story.clips))) for story in stories]


def _scores(
    system: str,
    truths: Sequence[TrueStory],
    stories: Mapping[str, Sequence[ToldStory]],
    answers: Mapping[str, Sequence[Sequence[Heard]]],
) -> dict[str, Score]:
    from audiostory.benchmark.soundworld import score_cast, score_plans, score_sounds, shuffled_scores

    if system == "shuffled":
        return shuffled_scores(truths, stories["truth"], answers["truth"])
    heard = answers[system]
    return {**score_plans(truths, stories[system]), **score_sounds(truths, heard), **score_cast(truths, heard)}


def _hardest(
    stories: Mapping[str, Sequence[ToldStory]], answers: Mapping[str, Sequence[Sequence[Heard]]]
) -> dict[str, list[Confusion]]:
    from audiostory.benchmark.soundworld import hardest

    return {name: hardest(stories[name], answers[name]) for name in MADE if name in stories}


def _notes(truths: Sequence[TrueStory], stories: Mapping[str, Sequence[ToldStory]]) -> list[str]:
    notes = []
    if open_ended := sum(truth.instruction.total_seconds is None for truth in truths):
        notes.append(f"{open_ended} of {len(truths)} instructions ask for no length: left out of the length measures")
    for name in TOLD:
        if failed := [story.id for story in stories.get(name, ()) if not story.clips]:
            listed = ", ".join(failed[:5]) + (" ..." if len(failed) > 5 else "")
            notes.append(f"{name}: {len(failed)} of {len(truths)} stories could not be told ({listed}); all wrong")
    return notes


def _seconds_to_tell(folder: Path, truths: Sequence[TrueStory]) -> dict[str, float]:
    """Total and mean over the stories that were told, whenever that was."""
    from audiostory.benchmark.items import RECORD

    files = [folder / truth.id / RECORD for truth in truths]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    seconds = [record["seconds_to_tell"] for record in records if "seconds_to_tell" in record]
    return {"total": round(sum(seconds), 1), "mean": round(sum(seconds) / max(1, len(seconds)), 2)}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _fingerprint(folder: Path) -> str:
    """Of the weights and configurations of a model folder: the same wherever it lies."""
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")]
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(f"{path.relative_to(folder).as_posix()} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    """The file appears with all its content or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, file)


if __name__ == "__main__":
    sys.exit(main())
