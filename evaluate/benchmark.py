"""Measures how well a model tells stories, on the sound world's test split, beside the best and the least it could do;
and how well it listens.

    python scripts/make_soundworld.py corpora/stories-test --split test --num 200
    python evaluate/train_ear.py --train corpora/clips-train --held-out corpora/clips-val --output runs/ear
    python evaluate/benchmark.py --manifest corpora/stories-test/manifest.jsonl --ear runs/ear --output runs/benchmark

The first --num stories are told into OUTPUT/told, a folder each, and scored against the truth; OUTPUT gets report.md
and report.json. The same command goes on where a stopped run was, and scores again without telling again.

A model that listens answers questions and goes on from openings too, in the same command or by themselves:

    python scripts/make_soundworld.py corpora/questions-test --kind question --split test --num 200 --seed 200000
    python scripts/make_soundworld.py corpora/continuations-test --kind continuation --split test --num 200
    python evaluate/benchmark.py --questions corpora/questions-test/manifest.jsonl \\
        --questions_train corpora/questions-train/manifest.jsonl --model_path FOLDER --output runs/benchmark
    python evaluate/benchmark.py --continuations corpora/continuations-test/manifest.jsonl \\
        --continuations_train corpora/continuations-train/manifest.jsonl --model_path FOLDER --ear runs/ear \\
        --output runs/benchmark

They have folders of their own with a report in each: OUTPUT/questions, where answers.jsonl has what was answered, and
OUTPUT/continuations, where silence.jsonl has what the model plans when it hears nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from audiostory.disk import sha256, write_text

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.benchmark.ear import Ear
    from audiostory.benchmark.intervals import Score
    from audiostory.benchmark.items import Heard, ToldStory, TrueStory
    from audiostory.benchmark.listening import Question
    from audiostory.benchmark.report import Report
    from audiostory.benchmark.soundworld import Confusion
    from audiostory.benchmark.tasks import QuestionTask, StoryTask
    from audiostory.model.codec import Codec
    from audiostory.pipeline import AudioStoryPipeline, StoryAudio
    from audiostory.sound import Waveform

CHOICES = ("told", "truth", "codec", "silence", "shuffled")  # the other columns have options of their own
SETTINGS = "settings.json"
ANSWERS = {"told": "answers.jsonl", "silence": "answers_silence.jsonl"}
PLANS = "silence.jsonl"
PACKAGES = ("audiostory", "torch", "diffusers", "transformers")  # whose versions the report names


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = arguments.add_argument_group("what is asked (one of --manifest, --questions, --continuations, or more)")
    add = asked.add_argument
    add("--manifest", type=Path, metavar="FILE", help="the stories to tell, and the truth about them")
    add("--questions", type=Path, metavar="FILE", help="questions about recordings, and their answers")
    add("--questions_train", type=Path, metavar="FILE", help="one column more: what is answered most often in these")
    add("--continuations", type=Path, metavar="FILE", help="openings, what to go on with, and the truth about it")
    add("--continuations_train", type=Path, metavar="FILE", help="one column more: what is most often heard in these")
    add = arguments.add_argument
    add("--ear", type=Path, metavar="DIR", help="the listener that evaluate/train_ear.py trained; needed for sound")
    add("--output", type=Path, required=True, metavar="DIR", help="told stories, answers and the reports")
    add("--model_path", type=Path, metavar="DIR", help="the model's folder (the bundled audiostory-mini)")
    add(
        "--num",
        type=int,
        default=200,
        help="how many stories, recordings with all their questions, and continuations, from the first on (200)",
    )
    add("--seed", type=int, default=0, help="another seed, other noise to start from (0)")
    add("--steps", type=int, help="denoising steps (the model's own)")
    add("--guidance", type=float, help="1 turns it off (the model's own)")
    add(
        "--systems",
        nargs="+",
        choices=CHOICES,
        default=CHOICES,
        help=f"the columns of the reports, where they apply ({' '.join(CHOICES)}); silence is the model that listens, "
        "given silence in place of the recording",
    )
    add("--oracle", action="store_true", help="one column more: the model given the true storyline")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (cuda if there is one)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        measure(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def measure(options: argparse.Namespace) -> None:
    """Reads all that is asked; then for each task makes what is not made yet, listens to it, and writes the report."""
    from audiostory.benchmark import report
    from audiostory.benchmark.ear import Ear
    from audiostory.benchmark.tasks import MADE, QuestionTask

    tasks = _tasks(options)
    ear, ear_facts = Ear.load(options.ear) if options.ear else (None, {})
    model = Model(options) if any({*task.columns} & {*MADE} for task in tasks) else None
    name = str(options.model_path or "audiostory-mini")
    outputs = [Output(task, model if {*task.columns} & {*MADE} else None) for task in tasks]
    for task, output in zip(tasks, outputs, strict=True):
        began = time.perf_counter()
        facts: dict[str, Any] = {
            "versions": _versions(),
            "manifest": {"file": str(task.manifest), "sha256": sha256(task.manifest), **task.counts},
        }
        if task.train:
            facts["training"] = {"file": str(task.train), "sha256": sha256(task.train)}
        if isinstance(task, QuestionTask):
            page = _questions_page(task, output)
        else:
            page = _stories_page(task, output, ear)
            facts["ear"] = {"sha256": sha256(options.ear / "ear.safetensors"), **ear_facts}
        facts |= {
            "model": {"name": name, **output.settings} if output.settings else None,
            **page.facts,
            "seconds_of_this_run": round(time.perf_counter() - began, 1),
        }
        report.write(task.folder, replace(page, facts=facts))
        print(f"\n{page.title}\n\n{report.table(page.columns)}")
        for note in page.notes:
            print(f"note: {note}")
        print(f"written to {task.folder / 'report.md'} and report.json")


class Model:
    """The model under test. It is loaded only when something is left to make.

    ValueError for a folder that is no model.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from audiostory.pipeline import MINI
        from audiostory.weights import ours

        self.folder, self.device, self.seed = options.model_path or MINI, options.device, options.seed
        own, names = ours.read_index(self.folder), ours.read_names(self.folder)
        self.steps = own.steps if options.steps is None else options.steps
        self.guidance = own.guidance if options.guidance is None else options.guidance
        self.lacking = [name for name in ours.LISTENING if name not in names]
        self.sha256 = _fingerprint(self.folder)

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
        """A story, or what follows the recording that the instruction holds."""
        choices: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance}
        # Every story has noise of its own, the same one however many stories are told.
        choices |= {"seed": crc32(f"{self.seed} {truth.id}".encode()), "progress": False}
        if system == "told":
            return self.pipeline(truth.instruction, **choices)
        return self.pipeline.render(self.pipeline.plan_from_storyline(truth.storyline, truth.instruction), **choices)

    def plan_after_silence(self, truth: TrueStory) -> tuple[list[str], float]:
        """The captions and the seconds of what it plans to follow an opening that it cannot hear."""
        assert truth.instruction.audio is not None
        silence = _silence(truth.instruction.audio)
        storyline = self.pipeline.plan(truth.instruction, audio=silence, progress=False).storyline
        return [event.caption for event in storyline.events], storyline.total_seconds

    def answer(self, recording: Path, questions: Sequence[str], system: str) -> list[str]:
        audio = _silence(recording) if system == "silence" else recording
        return self.pipeline.describe(audio, list(questions), progress=False)


class Output:
    """The folder of a task, and the model and the settings with which it is filled.

    ValueError for a model that cannot listen where it has to, and for a folder filled with other settings.
    """

    def __init__(self, task: StoryTask | QuestionTask, model: Model | None) -> None:
        self.folder, self._model, self.settings = task.folder, model, {}
        if model is None:
            return
        if task.is_heard and model.lacking:
            raise ValueError(
                f"{task.manifest} has recordings to listen to, which the model in {model.folder} cannot: it has no "
                f"{' and no '.join(model.lacking)}; give one that learnt from recordings as --model_path"
            )
        self.settings = {"model_sha256": model.sha256, "manifest_sha256": sha256(task.manifest)}
        if task.name != "questions":  # an answer is words alone
            self.settings |= {"seed": model.seed, "steps": model.steps, "guidance": model.guidance}
        self._check_settings()

    @property
    def model(self) -> Model:
        assert self._model is not None, "there is one wherever a column of MADE is asked for"
        return self._model

    def keep_settings(self) -> None:
        """Called before anything is written: what stands in the folder was made with these settings."""
        if not (self.folder / SETTINGS).exists():
            write_text(self.folder / SETTINGS, json.dumps(self.settings, indent=1) + "\n")

    def _check_settings(self) -> None:
        file = self.folder / SETTINGS
        if not file.exists():
            return
        try:
            held = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}); delete {self.folder} and tell all again") from error
        if different := [name for name in self.settings if held.get(name) != self.settings[name]]:
            listed = ", ".join(f"{name} {held.get(name)} (now {self.settings[name]})" for name in different)
            raise ValueError(
                f"what is in {self.folder} was told otherwise: {listed}; choose another --output, or delete it"
            )


def _tasks(options: argparse.Namespace) -> list[StoryTask | QuestionTask]:
    """What is asked for, read and checked."""
    from audiostory.benchmark import tasks

    if not (options.manifest or options.questions or options.continuations):
        raise ValueError("nothing is asked: give --manifest, --questions or --continuations, or several of them")
    for name in ("questions", "continuations"):
        if getattr(options, f"{name}_train") and not getattr(options, name):
            raise ValueError(f"--{name}_train is there to guess at --{name}, which is missing")
    if options.ear is None and (options.manifest or options.continuations):
        raise ValueError("--ear is missing, which hears what is told; evaluate/train_ear.py trains one in minutes")
    systems = [*options.systems, *(["oracle"] if options.oracle else [])]
    if options.num < 1 or ("shuffled" in systems and options.num < 2):
        raise ValueError(f"--num must be at least 1, and 2 to shuffle; got {options.num}")
    folder, num, asked = options.output, options.num, []
    if manifest := options.manifest:
        asked.append(tasks.stories(manifest, folder, systems, num))
    if manifest := options.continuations:
        train = options.continuations_train
        asked.append(tasks.continuations(manifest, folder / "continuations", systems, num, train))
    if manifest := options.questions:
        asked.append(tasks.questions(manifest, folder / "questions", systems, num, options.questions_train))
    return asked


def _stories_page(task: StoryTask, output: Output, ear: Ear | None) -> Report:
    from audiostory.benchmark import items, report
    from audiostory.benchmark.tasks import PLAYED, SYSTEMS, TOLD

    assert ear is not None
    goes_on, truths = task.name == "continuations", task.truths
    stories: dict[str, Sequence[ToldStory]] = {}
    if "truth" in task.columns or not goes_on:  # chance is other stories' truth
        stories["truth"] = [items.as_told(truth, [e.audio for e in truth.events if e.audio]) for truth in truths]
    for system in task.columns:
        if system == "codec":
            stories[system] = [items.as_told(truth, clips) for truth, clips in _coded(output, truths)]
        elif system == "silence":
            stories[system] = _planned_after_silence(output, truths)
        elif system in TOLD:
            stories[system] = _told(output, truths, system)
    times = {name: _seconds_to_tell(output.folder / name, truths) for name in TOLD if name in stories}
    played = [name for name in stories if name in PLAYED and (name in task.columns or "shuffled" in task.columns)]
    answers = {name: _listen(ear, name, stories[name]) for name in played}
    scores = _continuation_scores if goes_on else _story_scores
    return report.Report(
        title=f"{len(truths)} {task.name} of the sound world",
        columns={name: scores(name, task, stories, answers) for name in task.columns},
        about={name: SYSTEMS[task.name][name] for name in task.columns},
        how_to_read=report.HOW_TO_READ_CONTINUATIONS if goes_on else report.HOW_TO_READ_STORIES,
        notes=_notes(truths, stories),
        hardest=_hardest(stories, answers),
        facts={"seconds_to_tell": times},
    )


def _questions_page(task: QuestionTask, output: Output) -> Report:
    from audiostory.benchmark import report
    from audiostory.benchmark.listening import score_answers, shuffled_answers
    from audiostory.benchmark.tasks import QUESTIONS

    answers: dict[str, Sequence[str]] = {"guess": task.guess, "shuffled": shuffled_answers(task.questions)}
    answers |= {name: _answered(output, task.questions, name) for name in ANSWERS if name in task.columns}
    return report.Report(
        title=f"{len(task.questions)} questions about {task.counts['recordings']} recordings of the sound world",
        columns={name: score_answers(task.questions, answers[name]) for name in task.columns},
        about={name: QUESTIONS[name] for name in task.columns},
        how_to_read=report.HOW_TO_READ_ANSWERS,
    )


def _told(output: Output, truths: Sequence[TrueStory], system: str) -> list[ToldStory]:
    """The stories of one system, told now if they were not before. One that cannot be told leaves a note of why."""
    from tqdm.auto import tqdm

    from audiostory.benchmark.items import FAILURE, RECORD, read_told
    from audiostory.pipeline import StoryError
    from audiostory.story_files import save

    folders = [output.folder / system / truth.id for truth in truths]
    done = [(folder / RECORD).is_file() or (folder / FAILURE).is_file() for folder in folders]
    with tqdm(total=len(truths), initial=sum(done), desc=f"telling ({system})", unit="story") as bar:
        for truth, folder, is_done in zip(truths, folders, done, strict=True):
            if is_done:
                continue
            began = time.perf_counter()
            try:
                story = output.model.tell(truth, system)
            except StoryError as error:
                output.keep_settings()
                content = {"instruction": truth.instruction.text, "reason": str(error)}
                write_text(folder / FAILURE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            else:
                output.keep_settings()
                record = {
                    "instruction": truth.instruction.text,
                    "rendering": asdict(story.rendering),
                    "seconds_to_tell": round(time.perf_counter() - began, 3),
                }
                save(story, folder, record, picture=False)
            bar.update()
    return [read_told(folder) for folder in folders]


def _planned_after_silence(output: Output, truths: Sequence[TrueStory]) -> list[ToldStory]:
    """What the model plans without hearing the openings, planned now if it was not before; nothing is rendered."""
    from tqdm.auto import tqdm

    from audiostory.benchmark.listening import read_plans
    from audiostory.lines import append_line, drop_unfinished
    from audiostory.pipeline import StoryError

    file = output.folder / PLANS
    drop_unfinished(file)
    held = read_plans(file) if file.is_file() else {}
    left = [truth for truth in truths if truth.id not in held]
    with tqdm(total=len(truths), initial=len(truths) - len(left), desc="planning (silence)", unit="story") as bar:
        for truth in left:
            row: dict[str, Any] = {"id": truth.id, "instruction": truth.instruction.text}
            try:
                captions, seconds = output.model.plan_after_silence(truth)
            except StoryError as error:
                row |= {"captions": [], "seconds": 0.0, "reason": str(error)}
            else:
                row |= {"captions": captions, "seconds": round(seconds, 4)}
            output.keep_settings()
            append_line(file, row)
            bar.update()
    plans = read_plans(file)
    return [plans[truth.id] for truth in truths]


def _answered(output: Output, questions: Sequence[Question], system: str) -> list[str]:
    """The model's answers, given now if they were not before; the questions about a recording are asked together."""
    from tqdm.auto import tqdm

    from audiostory.benchmark.listening import read_any_answers
    from audiostory.lines import append_line, drop_unfinished

    file = output.folder / ANSWERS[system]
    drop_unfinished(file)
    held = read_any_answers(file) if file.is_file() else {}
    left = [question for question in questions if question.id not in held]
    done = len(questions) - len(left)
    with tqdm(total=len(questions), initial=done, desc=f"answering ({system})", unit="question") as bar:
        for recording, group in groupby(left, key=lambda question: question.recording):
            asked = list(group)
            assert recording is not None  # its file was looked for
            answers = output.model.answer(recording, [question.text for question in asked], system)
            output.keep_settings()
            for question, answer in zip(asked, answers, strict=True):
                row = {"id": question.id, "question": question.text, "answer": answer, "truth": question.answer}
                append_line(file, row)
                bar.update()
    answers = read_any_answers(file)
    return [answers[question.id] for question in questions]


def _coded(output: Output, truths: Sequence[TrueStory]) -> list[tuple[TrueStory, list[Path]]]:
    """The true clips encoded and decoded, as files."""
    from tqdm.auto import tqdm

    coded = []
    for truth in tqdm(truths, desc="encoding and decoding", unit="story"):
        folder = output.folder / "codec" / truth.id
        files = [folder / f"event_{number:02d}.wav" for number in range(1, len(truth.events) + 1)]
        for event, file in zip(truth.events, files, strict=True):
            if event.audio and not file.is_file():
                output.keep_settings()
                _through(output.model.pipeline.codec, event.audio, file)
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


def _silence(recording: Path) -> Waveform:
    """As long as the recording."""
    import numpy as np

    from audiostory import sound

    waveform = sound.read(recording)
    return replace(waveform, samples=np.zeros_like(waveform.samples))


def _listen(ear: Ear, system: str, stories: Sequence[ToldStory]) -> list[list[Heard]]:
    heard = iter(ear.hear([clip for story in stories for clip in story.clips], progress=f"listening ({system})"))
    return [list(islice(heard, len(story.clips))) for story in stories]


def _story_scores(
    system: str,
    task: StoryTask,
    stories: Mapping[str, Sequence[ToldStory]],
    answers: Mapping[str, Sequence[Sequence[Heard]]],
) -> dict[str, Score]:
    from audiostory.benchmark.soundworld import score_cast, score_plans, score_sounds, shuffled_scores

    truths = task.truths
    if system == "shuffled":
        return shuffled_scores(truths, stories["truth"], answers["truth"])
    heard = answers[system]
    return {**score_plans(truths, stories[system]), **score_sounds(truths, heard), **score_cast(truths, heard)}


def _continuation_scores(
    system: str,
    task: StoryTask,
    stories: Mapping[str, Sequence[ToldStory]],
    answers: Mapping[str, Sequence[Sequence[Heard]]],
) -> dict[str, Score]:
    """Silence, guess and chance are plans alone, and nothing is heard of them."""
    from audiostory.benchmark.listening import score_continuations, shuffled_continuations
    from audiostory.benchmark.soundworld import score_cast, score_sounds

    truths = task.truths
    if system == "guess":
        return score_continuations(truths, task.guess)
    if system == "shuffled":
        return score_continuations(truths, shuffled_continuations(truths))
    scores = score_continuations(truths, stories[system])
    if system in answers:
        scores |= {**score_sounds(truths, answers[system]), **score_cast(truths, answers[system])}
    return scores


def _hardest(
    stories: Mapping[str, Sequence[ToldStory]], answers: Mapping[str, Sequence[Sequence[Heard]]]
) -> dict[str, list[Confusion]]:
    from audiostory.benchmark.soundworld import hardest
    from audiostory.benchmark.tasks import MADE

    return {name: hardest(stories[name], answers[name]) for name in MADE if name in answers}


def _notes(truths: Sequence[TrueStory], stories: Mapping[str, Sequence[ToldStory]]) -> list[str]:
    from audiostory.benchmark.tasks import TOLD

    notes = []
    if open_ended := sum(truth.instruction.total_seconds is None for truth in truths):
        notes.append(f"{open_ended} of {len(truths)} instructions ask for no length: left out of the length measures")
    for name in (*TOLD, "silence"):
        if failed := [story.id for story in stories.get(name, ()) if not story.captions]:
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
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
