"""Repeats the paper's ablation tables in miniature: trains the rows, measures them, and puts the paper's rows beside.

    python scripts/ablate.py --table 4 11 --seeds 0 1 2 --jobs 2
    python scripts/ablate.py --table 4 --dry_run                        what there is to do, and for how long
    python scripts/ablate.py --table 1 --report FILE/report.json        systems that were compared, not trained

configs/ablations/table_04.yaml and its like say what a row is: which stages in which order, and what is changed in
each. shortened.yaml there shortens all rows alike. Every stage starts from the one before; what no stage of a row
teaches comes from --base (codec, text to audio, audio encoder, tokenizers). Each run is one of train.py in OUTPUT/runs,
under a name that says what it is and ends in a digest of all its settings, so what rows or tables share is trained
once. The last of a row is measured by evaluate/benchmark.py. OUTPUT gets ablations.md and ablations.json.

The same command goes on where it was stopped. A run that fails is named and the others go on; the exit code is 1 then.
More settings for every run may follow after --: -- runtime.minutes=60
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiostory.disk import write_text

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.benchmark.ablations.plan import Job, Settings
    from audiostory.training.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "configs" / "ablations"
TRAIN, BENCHMARK = ROOT / "train.py", ROOT / "evaluate" / "benchmark.py"
CONSOLE = "console.log"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="settings of train.py for every run, after the table's")
    add("--table", type=int, nargs="+", required=True, help="numbers of the paper's tables: 1, 4, 5, 6, 7, 11")
    add("--seeds", type=int, nargs="+", default=[0], help="of the headline rows; the others take the first [0]")
    add("--all_seeds", action="store_true", help="train every row with every seed")
    add("--base", default="runs", help="where codec, tangoflux, hearing and tokenizers are [%(default)s]")
    add("--corpora", default="corpora", help="data.folder of train.py [%(default)s]")
    add("--output", type=Path, default=Path("runs/ablations"), metavar="DIR", help="[%(default)s]")
    add("--num", type=int, default=100, help="stories that a row is measured on [%(default)s]")
    add("--benchmark", nargs="+", default=[], metavar="key=value", help="more settings of evaluate/benchmark.py")
    add("--report", type=Path, metavar="FILE", help="the benchmark's report.json, for a table of systems")
    add("--jobs", type=int, default=1, help="runs at a time [%(default)s]")
    add("--threads", type=int, default=1, help="of each [%(default)s]")
    add("--runtime", help="as train.py has them [cpu_compiled where there is g++, else cpu]")
    add("--dry_run", action="store_true", help="say what would be done and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 1 when a run failed, 2 when something must be asked or prepared differently."""
    options = build_parser().parse_args(argv)
    try:
        failed = ablate(options)
    except (ValueError, OSError) as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def ablate(options: argparse.Namespace) -> dict[str, str]:
    """Does all that is missing of the tables and writes them; the runs that failed, and why."""
    from audiostory.benchmark.ablations import results
    from audiostory.benchmark.ablations.plan import ordered, plan, read_table

    if min(options.jobs, options.threads, options.num - 1) < 1:
        raise ValueError("--jobs and --threads must be at least 1, --num at least 2")
    settings = read_settings(options)
    tables = {number: read_table(TABLES, number) for number in dict.fromkeys(options.table)}
    untrained = [number for number, table in tables.items() if not table.is_trained]
    if untrained and not options.report:
        raise ValueError(f"table {untrained[0]} compares systems; give the benchmark's report.json as --report")
    cells = plan(TABLES, tables, settings)
    jobs = ordered(cells)
    runs = compose(jobs)
    refuse_others(jobs, runs)
    if options.dry_run:
        print(forecast(jobs, runs, settings))
        return {}
    failed: dict[str, str] = {}
    with _alone(settings.output):
        try:
            carry_out(jobs, options.jobs, options.threads, failed)
        finally:  # also of what there is when it is interrupted
            found = {
                n: results.of_seeds(n, cells) if table.is_trained else results.of_systems(table, options.report)
                for n, table in tables.items()
            }
            facts = {
                "settings": {name: str(value) for name, value in vars(options).items()},
                "runs": {f"table {cell.table}, {cell.row}, seed {cell.seed}": str(cell.job.folder) for cell in cells},
                "failed": failed,
            }
            results.write(settings.output, tables, found, facts)
            print(f"written to {settings.output / 'ablations.md'} and ablations.json")
    return failed


def read_settings(options: argparse.Namespace) -> Settings:
    from audiostory.benchmark.ablations.plan import Settings

    return Settings(
        base=options.base,
        corpora=options.corpora,
        output=options.output,
        num=options.num,
        seeds=tuple(options.seeds),
        all_seeds=options.all_seeds,
        overrides=tuple(options.overrides),
        benchmark=tuple(options.benchmark),
        runtime=options.runtime or ("cpu_compiled" if shutil.which("g++") else "cpu"),
    )


def compose(jobs: Sequence[Job]) -> dict[tuple[str, ...], tuple[RunConfig, Any]]:
    """The configurations of all stages, built and as plain data, by `Job.chosen`, so that a misspelt key stops all
    before the first hour and not after many."""
    from audiostory import composing
    from audiostory.training import config

    found: dict[tuple[str, ...], tuple[RunConfig, Any]] = {}
    for job in jobs:
        if job.stage is None or job.chosen in found:
            continue
        try:
            composed = config.compose(ROOT / "configs", job.arguments)
            found[job.chosen] = composing.build(config.RunConfig, composed), composed
        except ValueError as error:
            raise ValueError(f"{job.name}: {error}") from error
    return found


def refuse_others(jobs: Sequence[Job], runs: Mapping[tuple[str, ...], tuple[RunConfig, Any]]) -> None:
    """ValueError for a run that was trained under the name of one of these, but with other settings or data: names tell
    what is asked for on the command line and in the tables, not what configs/ and the corpora held then."""
    from audiostory.training import builders, data

    fingerprints: dict[tuple[str, ...], Any] = {}
    for job in jobs:
        told = job.folder / builders.RUN_FILE
        if job.stage is None or not told.is_file():
            continue
        run, composed = runs[job.chosen]
        if job.chosen not in fingerprints:
            fingerprints[job.chosen] = data.fingerprints(run)
        before = json.loads(told.read_text(encoding="utf-8"))
        # What differs between runs of one `chosen`: their names tell it.
        own = {"seed": before["config"]["seed"], "stage": {**composed["stage"], "start_from": None}}
        before["config"]["stage"]["start_from"] = None
        now = {"config": {**composed, **own}, "data": fingerprints[job.chosen]}
        if changed := builders.changes(before, now):
            raise ValueError(
                f"{job.folder} was trained with other settings than are asked for now:\n  "
                + "\n  ".join(changed)
                + "\nBring those back, give another --output, or remove that folder and those of what was made from it"
            )


def forecast(jobs: Sequence[Job], runs: Mapping[tuple[str, ...], tuple[RunConfig, Any]], settings: Settings) -> str:
    """A line for each run: its steps, and the hours left of it by the speed in the logs that there are."""
    from audiostory.benchmark.ablations.plan import to_do

    lines, hours, unknown, todo = [], 0.0, 0, to_do(jobs)
    for job in jobs:
        if job not in todo:
            lines.append(f"{'done':>12}  {job.name}")
            continue
        if job.stage is None:
            lines.append(f"{'to do':>12}  {job.name}")
            continue
        steps, done = runs[job.chosen][0].stage.steps, _steps_done(job.folder)
        seconds = seconds_per_step(job.stage, settings)
        left = None if seconds is None else (steps - done) * seconds / 3600
        hours, unknown = hours + (left or 0.0), unknown + (left is None)
        time_left = "no log tells its speed" if left is None else f"{left:.2f} h left"
        lines.append(f"{f'{done} of {steps}':>12}  {job.name}, {time_left}")
    measured = sum(job.stage is None for job in todo)
    total = f"{len(todo) - measured} runs and {measured} measurements to do, {hours:.1f} hours of training one by one"
    return "\n".join([*lines, total + (f", and {unknown} runs of unknown speed" if unknown else "")])


def seconds_per_step(stage: str, settings: Settings) -> float | None:
    """The median over the logs of this stage: of the ablations' own runs, and before there are any, of `base`."""
    from audiostory.training import journal

    own = sorted((settings.output / "runs").glob(f"{stage}-*/log.jsonl"))
    for logs in (own, [Path(settings.base) / stage / "log.jsonl"]):
        lines = [line for log in logs if log.is_file() for line in journal.read(log)]
        if found := [line["seconds_per_step"] for line in lines if "seconds_per_step" in line]:
            return statistics.median(found)
    return None


def carry_out(jobs: Sequence[Job], at_a_time: int, threads: int, failed: dict[str, str]) -> None:
    """Runs what is still to do. `failed` gets what came to nothing, and why: a failed run takes with it what needs it,
    and nothing else. When it is interrupted, what runs is told to save, and waited for."""
    from tqdm import tqdm

    from audiostory.benchmark.ablations.plan import to_do

    waiting = to_do(jobs)
    running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="runs", unit="run", dynamic_ncols=True)
    with bar, _stopped_by_sigterm():
        try:
            while waiting or running:
                for job in list(waiting):
                    if job.after is not None and job.after.name in failed:
                        failed[job.name] = f"it needs {job.after.name}"
                        waiting.remove(job)
                    elif len(running) < at_a_time and (job.after is None or job.after.is_done):
                        bar.write(f"begins: {job.name}")
                        running[job.name] = (job, start(job, threads))
                        waiting.remove(job)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.name]
                        if reason := ended(job, process.returncode):
                            failed[job.name] = reason
                        bar.write(f"failed: {job.name}" if reason else f"done: {job.name}")
                        bar.update(not reason)
                time.sleep(0.1 if running else 0)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()


def start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    """What it says goes to console.log in its folder. It has a session of its own, so that Ctrl-C reaches it once."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / CONSOLE).open("ab") as console:
        return subprocess.Popen(
            [sys.executable, str(TRAIN if job.stage else BENCHMARK), *job.arguments],
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


def ended(job: Job, code: int) -> str:
    """Why a job that is over came to nothing; empty when it is done. A finished run needs its checkpoints no more."""
    from audiostory.benchmark.ablations import results

    console = job.folder / CONSOLE
    if code:
        lines = console.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{last.strip()} (exit code {code}; {console})"
    if job.stage is None:
        try:
            write_text(job.result, json.dumps(results.collect(job.folder), indent=1) + "\n")
        except ValueError as error:
            return f"{error} ({console})"
    if not job.is_done:
        return f"it stopped before its end; the same command goes on ({console})"
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return ""


def _steps_done(folder: Path) -> int:
    """By the newest checkpoint, from which a stopped run goes on."""
    return max((int(path.name.rpartition("_")[-1]) for path in folder.glob("checkpoints/step_*")), default=0)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Two of these in one folder would train the same run twice, into each other's files."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another ablate.py works in {output}; give all tables to one, with --jobs") from error
        yield


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """As Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
