"""Makes a corpus of stories out of folders of videos, in the manner of the paper's AudioStory-10k (docs/AS10K.md).

    pip install "audiostory[as10k,judge]"
    python scripts/prepare_as10k.py --natural UNAV --cartoon EPISODES --output corpora/as10k --until clips
    export GEMINI_API_KEY=...
    python scripts/prepare_as10k.py --natural UNAV --cartoon EPISODES --output corpora/as10k \\
        --annotator gemini:gemini-2.5-pro --writer openai:gpt-4o

The first command finds and cuts clips and costs nothing but time; its last lines tell how many clips a model would be
asked about. The second has them annotated and writes OUTPUT/train/manifest.jsonl and OUTPUT/test/manifest.jsonl, which
training and the benchmark read, and OUTPUT/summary.json: for each step what was kept, and why the rest was dropped.

The same command goes on where it was stopped, and does anew what changed: a video, a setting, a model. Models are
gemini:NAME, openai:NAME (any server that speaks its chat completions: --base_url) and local:FOLDER; keys come from the
environment alone. Gemini and a server are given a picture of each second and the sound, a local model the sound.

With --ray, the workers of a cluster do the same; videos and output must lie under the same paths on all machines. A
server is asked by this command alone, --workers questions at a time, so that one pace holds for all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiostory.as10k.settings import STEPS

if TYPE_CHECKING:
    from audiostory.as10k.build import Built, Model, Plan
    from audiostory.as10k.work import Job, Make, Outcome
    from audiostory.benchmark.judge.asking import Sender
    from audiostory.benchmark.judge.backend import Backend

KINDS = ("gemini", "openai", "local")
SUMMARY = "summary.json"
GEMINI_AS_OPENAI = "https://generativelanguage.googleapis.com/v1beta/openai"


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        _check_installed()
        run(options)
    except (ValueError, OSError) as error:
        print(f"prepare_as10k.py: {_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--natural", type=Path, metavar="DIR", help="videos that are kept whole if they last 30 s or more")
    add("--cartoon", type=Path, metavar="DIR", help="videos that are cut where their shots end, and dubbed")
    add(
        "--output", type=Path, required=True, metavar="DIR", help="the corpus; work/ in it is what the steps go on from"
    )
    add("--annotator", metavar="KIND:NAME", help="the model that says what is heard in a clip, and when")
    add("--writer", metavar="KIND:NAME", help="the model that writes captions and reasoning (the annotator)")
    add("--base_url", metavar="URL", help="of the server for openai:NAME (OpenAI's)")
    add("--requests_per_minute", type=float, metavar="N", help="to each server, at most")
    add("--hear_only", action="store_true", help="give the annotator the sound alone")
    add("--dinov2", type=Path, metavar="DIR", help="weights to compare frames with (without: colours)")
    add("--until", choices=STEPS, default="rows", help="the last step to do (rows)")
    add("--set", nargs="+", default=[], metavar="GROUP.NAME=VALUE", help="such as cartoon.min_seconds=5 row.seed=1")
    add("--ask_again", action="store_true", help="ask once more about clips whose answers could not be used")
    add("--workers", type=int, default=1, metavar="N", help="videos, or questions, at a time (1)")
    add(
        "--ray", metavar="ADDRESS", nargs="?", const="", help="on a cluster: auto, or its address; none starts one here"
    )
    return arguments


def run(options: argparse.Namespace) -> Built:
    """Builds, tells what became of everything, writes the manifests and reads them back."""
    from audiostory.as10k.build import Plan, build
    from audiostory.as10k.settings import Settings, changed
    from audiostory.as10k.similarity import ColourLikeness, DinoLikeness
    from audiostory.as10k.work import here

    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {options.workers}")
    pace = options.requests_per_minute
    if pace is not None and not 0 < pace < math.inf:
        raise ValueError(f"--requests_per_minute must be more than 0; got {pace}")
    folders = {"natural": options.natural, "cartoon": options.cartoon}
    if pairs := [pair for pair in options.set if "=" not in pair]:
        raise ValueError(f"--set takes GROUP.NAME=VALUE; got {pairs[0]!r}")
    annotator, writer = _models(options)
    plan = Plan(
        folders={domain: folder for domain, folder in folders.items() if folder is not None},
        output=options.output,
        settings=changed(Settings(), dict(pair.split("=", 1) for pair in options.set)),
        likeness=DinoLikeness(options.dinov2) if options.dinov2 else ColourLikeness(),
        annotator=annotator,
        writer=writer,
        until=options.until,
        again=options.ask_again,
        workers=here(options.workers) if options.ray is None else partial(on_cluster, options.ray, options.workers),
        watch=_bar,
    )
    built = build(plan)
    tell(plan, built)
    if options.until == "rows":
        write(plan, built)
    return built


def write(plan: Plan, built: Built) -> None:
    """The manifests, each read back by what training reads it with. ValueError when a row of ours cannot be read."""
    from audiostory.as10k.build import write_manifests
    from audiostory.dataset import manifest

    if not any(built.rows.values()):
        raise ValueError(f"no rows are left; the table and {plan.output / SUMMARY} tell what became of the videos")
    for file in write_manifests(plan.output, built.rows):
        read = manifest.read(file, damaged_share=0.0)
        for row in read.rows:
            paths = [clip.audio for clip in row.clips] + ([row.instruction.audio] if row.instruction.audio else [])
            if lacking := [path for path in paths if path is None or not path.is_file()]:
                raise ValueError(f"{file}: row {row.id} names {lacking[0]}, which is not there; run it again")


def tell(plan: Plan, built: Built) -> None:
    """Prints the table of what was kept and dropped, and writes it with every name into OUTPUT/summary.json."""
    file = _summary(plan, built)
    print(f"\n{'step':<12}{'found':>8}{'kept':>8}{'dropped':>9}{'new':>8}")
    for count in built.counts:
        dropped = sum(count.reasons.values())
        print(f"{count.step:<12}{count.found:>8}{count.kept:>8}{dropped:>9}{count.new:>8}  {count.unit}s")
        for reason, number in count.reasons.most_common():
            print(f"{'':<28}{number:>9}  {_line(reason)}")
        if count.unanswered:
            print(f"{'':<28}{count.unanswered:>9}  without an answer; run it again")
    for split, made in built.rows.items():
        print(f"{split}: {len(made)} rows, {sum(row['total_seconds'] for row in made) / 3600:.2f} h of sound")
    print(f"frames compared by: {plan.likeness.name}; every dropped thing by name: {file}")


def _summary(plan: Plan, built: Built) -> Path:
    from audiostory.disk import write_text

    models = {"annotator": plan.annotator, "writer": plan.writer}
    variants = {
        split: {name: sum(row["variant"] == name for row in made) for name in plan.settings.row.variants}
        for split, made in built.rows.items()
    }
    content = {
        "similarity": plan.likeness.name,
        "models": {name: model and {"name": model.name, "sees": model.sees} for name, model in models.items()},
        "settings": asdict(plan.settings),
        "steps": [{name: value for name, value in vars(count).items() if name != "dropped"} for count in built.counts],
        "rows": variants,
        "dropped": [entry for count in built.counts for entry in count.dropped],
    }
    file = plan.output / SUMMARY
    write_text(file, json.dumps(content, indent=1) + "\n")
    return file


# --- models ---


def _models(options: argparse.Namespace) -> tuple[Model | None, Model | None]:
    """Those that are asked before --until ends. ValueError for names and keys that no question can be asked with."""
    from audiostory.as10k.build import Model
    from audiostory.as10k.work import here

    last = STEPS.index(options.until)
    if last < STEPS.index("events") or options.annotator is None:
        return None, None
    named = [(options.annotator, not options.hear_only), (options.writer or options.annotator, False)]
    models = []
    for name, sees in named[: 1 if last < STEPS.index("stories") else 2]:
        kind, _, model = name.partition(":")
        if kind not in KINDS or not model:
            raise ValueError(f"a model is one of {', '.join(f'{kind}:NAME' for kind in KINDS)}; got {name!r}")
        asked = Asked(
            kind,
            model,
            base_url=options.base_url,
            requests_per_minute=options.requests_per_minute,
            sees=sees and kind != "local",
        )
        asked.open()
        # A local model is work for a cluster; a server has one limit, which only one process can keep for all.
        asking = None if kind == "local" else here(options.workers)
        models.append(Model(name=name, ask=asked, sees=asked.sees, workers=asking))
    return models[0], models[1] if len(models) > 1 else None


class Asked:
    """One of the judge's back ends, with its patience, as `as10k.answers.Ask`. Workers of a cluster open their own."""

    def __init__(self, kind: str, model: str, *, base_url: str | None, requests_per_minute: float | None, sees: bool):
        self.kind, self.model, self.sees = kind, model, sees
        self.base_url, self.requests_per_minute = base_url, requests_per_minute
        self._sender: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sender": None}  # it holds connections and a key

    def __call__(self, prompt: str, media: Path | None) -> str:
        from audiostory.as10k.ledger import Dropped, Refused
        from audiostory.benchmark.judge.asking import FailedError, StoppedError
        from audiostory.benchmark.judge.backend import RefusedError, UnsendableError, UnusableError

        try:
            return self.open().answer(Question(prompt=prompt, audio=media))["text"]
        except UnusableError as error:
            raise ValueError(f"{self.kind}:{self.model} cannot be asked: {error}") from error
        except FailedError as error:
            if isinstance(error.__cause__, UnsendableError):
                raise Dropped("the model cannot hear it", str(error)) from error
            if isinstance(error.__cause__, RefusedError):
                raise Refused("the model refused to answer", str(error)) from error
            raise ConnectionError(str(error)) from error
        except StoppedError as error:
            raise ConnectionError(str(error)) from error

    def open(self) -> Sender:
        """ValueError for a key or a model that is not there."""
        from audiostory.benchmark.judge.asking import Patience, Sender

        if self._sender is None:
            self._sender = Sender(self._backend(), Patience(requests_per_minute=self.requests_per_minute))
        return self._sender

    def _backend(self) -> Backend:
        from audiostory.benchmark.judge import gemini, local, openai_server
        from audiostory.benchmark.judge.backend import Key

        how: dict[str, Any] = {"temperature": 0.0, "timeout": 300.0}
        if self.kind == "local":
            return local.Local(Path(self.model), temperature=0.0)
        if self.kind == "gemini":
            key = Key.from_environment(*gemini.KEY_VARIABLES)
            if not self.sees:
                return gemini.Gemini(self.model, key, **how)
            if key is None:
                raise ValueError(f"no key: set {' or '.join(gemini.KEY_VARIABLES)}")
            return openai_server.OpenAIServer(self.model, key, base_url=GEMINI_AS_OPENAI, perceive=shown, **how)
        key = Key.from_environment(*openai_server.KEY_VARIABLES)
        url = self.base_url or openai_server.DEFAULT_URL
        perceive = shown if self.sees else None
        return openai_server.OpenAIServer(self.model, key, base_url=url, perceive=perceive, **how)


class Question(NamedTuple):
    """What the judge's `Sender` asks of a call: a prompt, something to perceive, and what to make of the answer."""

    prompt: str
    audio: Path | None

    def read(self, text: str) -> dict[str, str]:
        return {"text": text}


def shown(video: Path) -> list[dict[str, Any]]:
    """A clip of ours (small, checked) in parts of a chat: a picture of each second, then the sound beside it."""
    from audiostory.as10k.settings import VideoSettings
    from audiostory.as10k.videos import stills
    from audiostory.benchmark.judge.openai_server import heard

    parts: list[dict[str, Any]] = []
    for time, jpeg in stills(video, VideoSettings(), every=1.0):
        address = f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
        parts += [{"type": "text", "text": f"{time:.1f} s:"}, {"type": "image_url", "image_url": {"url": address}}]
    sound = next(file for suffix in (".flac", ".wav") if (file := video.with_suffix(suffix)).is_file())
    return [*parts, *heard(sound)]


# --- on a cluster ---


def on_cluster(address: str, workers: int, make: Make, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Jobs on the workers of a Ray cluster, as `as10k.work.Workers`."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f'{error}; install it with pip install "audiostory[scale]"') from error
    if not ray.is_initialized():
        ray.init(address=address or None)
    # Items with a block each, as scripts/prepare_corpus.py says why.
    items = [{"job": pickle.dumps(job)} for job in jobs]
    pool = ray.data.ActorPoolStrategy(size=workers)
    made = ray.data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        Worker, fn_constructor_args=(make,), batch_size=1, compute=pool
    )
    for batch in made.iter_batches(batch_size=1, batch_format="numpy"):
        for fault, outcome in zip(batch["fault"].tolist(), batch["outcome"].tolist(), strict=True):
            if fault:
                raise ValueError(fault)
            yield pickle.loads(outcome)  # what our own worker has just written


class Worker:
    """Makes jobs on a machine of a cluster."""

    def __init__(self, make: Make):
        self.make = make

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """An outcome for each job, or what was wrong: Ray would bury an error among its own."""
        import numpy as np

        from audiostory.as10k.work import attempt

        faults, outcomes = [], []
        for job in batch["job"].tolist():
            try:
                outcomes.append(pickle.dumps(attempt(self.make, pickle.loads(job))))
                faults.append("")
            except (ValueError, OSError) as error:
                outcomes.append(b"")
                faults.append(str(error) or type(error).__name__)
        return {"fault": faults, "outcome": np.array(outcomes, dtype=object)}


# --- words ---


def _check_installed() -> None:
    for name in ("av", "scenedetect"):
        if find_spec(name) is None:
            raise ValueError(f'{name} is not installed; pip install "audiostory[as10k]"')


def _bar(outcomes: Iterable[Outcome], total: int, step: str) -> Iterable[Outcome]:
    from tqdm import tqdm

    return tqdm(outcomes, total=total, desc=step, dynamic_ncols=True)


def _line(text: object) -> str:
    """One line without what would command a terminal: files are named by others."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


if __name__ == "__main__":
    sys.exit(main())
