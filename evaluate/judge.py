"""Lets a model that hears judge told stories: four axes from 0 to 5 as in the paper, and a rubric of yes/no items.

    python evaluate/judge.py --told runs/benchmark/soundworld/told/mini --backend gemini --model gemini-2.5-flash \\
        --output runs/judge/ours
    python evaluate/judge.py --wavs other/wavs --items items.jsonl --backend openai --model Qwen/Qwen2.5-Omni-7B \\
        --base_url http://127.0.0.1:8000/v1 --output runs/judge/other
    python evaluate/judge.py --told runs/benchmark/soundworld/told/mini --backend local \\
        --model models/Qwen2-Audio-7B-Instruct --output runs/judge/local

--told is a folder of stories as evaluate/inference.py and evaluate/benchmark.py write them; --wavs holds any system's
recordings ID.wav with their instructions in --items, lines of {"id": ..., "instruction": ...} ("total_seconds" too, if
a length was asked for). OUTPUT gets judgements.jsonl (a line per answer), report.md and report.json. The same command
goes on where a stopped run was, and asks only what is missing. --shuffle judges every instruction with another story's
recording, into OUTPUT/shuffled-SEED: a judge worth its name gives that little.

Keys come from the environment alone: GEMINI_API_KEY (or GOOGLE_API_KEY) for gemini, OPENAI_API_KEY for openai; a server
of your own may need none. What it will cost is said first, and nothing is sent to a server before you agree.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from audiostory.benchmark.intervals import Score
    from audiostory.benchmark.judge.asking import Failure, Sender
    from audiostory.benchmark.judge.backend import Backend
    from audiostory.benchmark.judge.calls import Call, Identity, Plan
    from audiostory.benchmark.judge.journal import Journal
    from audiostory.benchmark.judge.stories import Story

AXES = ("instruction", "reasoning", "consistency", "coherence", "rubric")
NAMES = {"instruction": "instruction following", "reasoning": "reasoning logic"}  # in prompts.AXES; others as they are
PACKAGES = {"gemini": ("google-genai",), "openai": ("httpx",), "local": ("torch", "transformers")}
GUESSED_ITEMS = 7  # in a rubric that is not drawn yet, for the estimate
SHOWN_FAILURES = 50

HOW_TO_READ = """\
The axes and their criteria go from 0 to 5. A story's figure is the median over its calls, and n counts the stories that
have one; one that its system could not tell counts 0. In brackets stands the 95 % bootstrap interval over stories.
"Spread over calls" is how far the highest call lies above the lowest. "Rubric satisfaction" is the share of a story's
items that most of their calls answer with yes. What a judge gives is comparable only with what the same model gave,
asked in the same words.
"""


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument_group("what is judged (one of --told and --wavs)").add_argument
    add("--told", type=Path, metavar="DIR", help="told stories, a folder each")
    add("--wavs", type=Path, metavar="DIR", help="recordings ID.wav of any system; needs --items")
    add("--items", type=Path, metavar="FILE", help="ids and instructions; with --told they replace the stories' own")
    add("--num", type=int, metavar="N", help="only the first N stories (all)")
    add("--shuffle", type=int, metavar="SEED", help="the control: each instruction with another story's recording")
    add = arguments.add_argument_group("who judges").add_argument
    add("--backend", required=True, choices=tuple(PACKAGES), help="gemini, an OpenAI-compatible server, or local")
    add("--model", required=True, metavar="ID", help="the model's pinned name; its folder for local")
    add(
        "--base_url",
        metavar="URL",
        help="another server than the service's own (up to /v1 for openai); another address is another judge",
    )
    add("--key_env", metavar="NAME", help="another environment variable that holds the key")
    add("--temperature", type=float, default=0.0, help="0 is as repeatable as a judge gets (0)")
    add("--device", metavar="NAME", help="for local, such as cuda:0 (cuda if there is one)")
    add = arguments.add_argument_group("how").add_argument
    add("--axes", nargs="+", choices=AXES, default=AXES, help=f"what to ask for ({' '.join(AXES)})")
    add("--calls", type=int, default=3, metavar="N", help="how often every question is asked (3)")
    add("--items_per_call", type=int, default=1, metavar="N", help="rubric items asked together; more is cheaper (1)")
    add("--seed", type=int, default=0, help="of the order of criteria and items (0)")
    add("--rubric", type=Path, metavar="FILE", help="drawn rubrics, for all systems the same (rubric.jsonl by OUTPUT)")
    add("--output", type=Path, required=True, metavar="DIR", help="answers and reports")
    add = arguments.add_argument_group("patience and money").add_argument
    add("--yes", action="store_true", help="go on without asking, whatever the estimate says")
    add("--prices", type=Path, metavar="FILE", help="JSON: dollars per million tokens by model, in place of our table")
    add("--requests_per_minute", type=float, metavar="N", help="the server's limit (none)")
    add("--in_flight", type=int, default=4, metavar="N", help="requests at a time (4)")
    add("--tries", type=int, default=6, metavar="N", help="how often a request is tried when the server is busy (6)")
    add("--timeout", type=float, default=120.0, metavar="SECONDS", help="how long to wait for an answer (120)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """0; 1 when questions are left without an answer, which the same command asks again; 2 when something must be asked
    or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        return judge(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def judge(options: argparse.Namespace) -> int:
    """Reads what is judged, plans the questions, asks what has no answer yet, and writes the report."""
    from audiostory.benchmark.judge import prompts
    from audiostory.benchmark.judge.asking import ask_all
    from audiostory.benchmark.judge.calls import Plan, axis_calls, draw_calls, rubric_calls
    from audiostory.benchmark.judge.journal import Journal

    _check(options)
    began = time.perf_counter()
    folder = options.output if options.shuffle is None else options.output / f"shuffled-{options.shuffle}"
    stories, untold, axes = _stories(options)
    identity = _identity(options)
    plan = Plan(num_calls=options.calls, items_per_call=options.items_per_call, seed=options.seed)
    rubrics_file = options.rubric or options.output.absolute().parent / "rubric.jsonl"
    journal, rubrics = Journal(folder / "judgements.jsonl"), Journal(rubrics_file)
    for opened in (journal, rubrics):
        if opened.cut:
            print(f"note: the last line of {opened.file} was cut off ({opened.cut} bytes); its question is asked again")

    calls = axis_calls(stories, [name for name in axes if name in prompts.AXES], identity, plan)
    draws = draw_calls([story.instruction for story in stories], identity) if "rubric" in axes else []
    known = _rubric_by_story(stories, draws, rubrics)
    planned = [*calls, *rubric_calls(stories, known, identity, plan)]
    failures: list[Failure] = []
    sender = _sender(options, stories, known, draws, planned, journal, rubrics, plan)
    if sender is not None:
        failures += _asked(ask_all, draws, sender, rubrics, "drawing rubrics")
        known = _rubric_by_story(stories, draws, Journal(rubrics_file))  # another run may have drawn them first
        planned = [*calls, *rubric_calls(stories, known, identity, plan)]
        failures += _asked(ask_all, planned, sender, journal, "judging")
    if not planned:
        raise ValueError("there is nothing to judge" + (f": {failures[0].reason}" if failures else ""))
    facts = {
        "judge": {**asdict(identity), "prompts": prompts.version()},
        "asked": {**asdict(plan), "axes": axes, "shuffle": options.shuffle},
        "stories": {"from": str(options.told or options.wavs), "num": len(stories), "untold": untold},
        "rubrics": str(rubrics_file) if draws else None,
        "answers": {"planned": len(planned), "there": sum(call.key in journal.rows for call in planned)},
        "this_run": {**(sender.tally if sender else {}), "seconds": round(time.perf_counter() - began, 1)},
        "failures": {"num": len(failures), "first": [asdict(failure) for failure in failures[:SHOWN_FAILURES]]},
        "versions": _versions(options.backend),
    }
    _report(folder, options, _scores(axes, planned, journal, len(untold)), facts, _notes(facts, failures))
    return 1 if failures else 0


def _check(options: argparse.Namespace) -> None:
    """What can be seen at once."""
    if (options.told is None) == (options.wavs is None):
        raise ValueError("give --told, or --wavs with --items")
    if options.wavs is not None and options.items is None:
        raise ValueError("--wavs needs --items, to say what was asked for")
    for name in ("calls", "items_per_call", "in_flight", "tries", "num"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} should be 1 or more, got {getattr(options, name)}")
    for name in ("timeout", "requests_per_minute"):
        if getattr(options, name) is not None and not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"--{name} should be more than 0, got {getattr(options, name)}")
    if not 0 <= options.temperature <= 2:
        raise ValueError(f"--temperature goes from 0 to 2, got {options.temperature}")
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"{options.output} is a file; choose another --output")


def _stories(options: argparse.Namespace) -> tuple[list[Story], list[str], list[str]]:
    """What is judged, what was never told, and on which axes; under --shuffle those that read the instruction."""
    from audiostory.benchmark.judge import stories as reading
    from audiostory.benchmark.judge.prompts import AXES as ALL

    items = reading.read_items(options.items) if options.items else None
    if options.told is not None:
        stories, untold = reading.read_told(options.told, items, options.num)
    else:
        assert items is not None
        stories, untold = reading.read_recordings(options.wavs, items, options.num), []
    if not stories:
        raise ValueError(f"none of the {len(untold)} stories in {options.told} was told; there is nothing to judge")
    axes = [NAMES.get(name, name) for name in AXES if name in options.axes]
    if options.shuffle is not None:
        stories = reading.shuffled(stories, options.shuffle)
        axes = [name for name in axes if name not in ALL or ALL[name].reads_instruction]
        if not axes:
            raise ValueError("consistency and coherence read no instruction: --shuffle has nothing to tell of them")
    return stories, untold, axes


def _identity(options: argparse.Namespace) -> Identity:
    from audiostory.benchmark.judge.calls import Identity

    model = options.model
    if options.backend == "local":
        from audiostory.benchmark.judge.local import model_name

        model = model_name(Path(model))
    server = None if options.backend == "local" or options.base_url is None else options.base_url.rstrip("/")
    return Identity(backend=options.backend, model=model, temperature=options.temperature, server=server)


def _rubric_by_story(stories: Sequence[Story], draws: Sequence[Call], rubrics: Journal) -> dict[str, list[str]]:
    """The items of the stories whose instruction has been drawn from."""
    from audiostory.benchmark.judge.prompts import draw_prompt

    drawn = {call.prompt: rubrics.rows[call.key]["items"] for call in draws if call.key in rubrics.rows}
    prompts = {story.id: draw_prompt(story.instruction) for story in stories}
    return {id: list(drawn[prompt]) for id, prompt in prompts.items() if prompt in drawn}


def _sender(
    options: argparse.Namespace,
    stories: Sequence[Story],
    known: Mapping[str, Sequence[str]],
    draws: Sequence[Call],
    planned: Sequence[Call],
    journal: Journal,
    rubrics: Journal,
    plan: Plan,
) -> Sender | None:
    """Who asks, once the cost is agreed to; None when every question has its answer."""
    from audiostory.benchmark.judge.asking import Patience, Sender
    from audiostory.benchmark.judge.calls import rubric_calls
    from audiostory.benchmark.judge.cost import PRICES, estimate, read_prices

    to_draw = [call for call in draws if call.key not in rubrics.rows]
    guessed = {story.id: [f"Is sound number {n} heard?" for n in range(GUESSED_ITEMS)] for story in stories}
    undrawn = [story for story in stories if draws and story.id not in known]
    left = [call for call in planned if call.key not in journal.rows]
    left += [*to_draw, *rubric_calls(undrawn, guessed, _identity(options), plan)]
    if not left:
        print("every question has its answer already; the report is written again")
        return None
    prices = read_prices(options.prices) if options.prices else PRICES
    backend = _backend(options)
    print(f"to ask {options.model}: {estimate(left, prices.get(options.model))}")
    if undrawn:
        print(f"({len(undrawn)} rubrics are not drawn yet; {GUESSED_ITEMS} items each are guessed)")
    if options.backend != "local" and not options.yes:
        _agree()
    one_at_a_time = options.backend == "local"
    patience = Patience(
        tries=options.tries,
        requests_per_minute=options.requests_per_minute,
        in_flight=1 if one_at_a_time else options.in_flight,
    )
    return Sender(backend, patience)


def _agree() -> None:
    """ValueError unless a person at the keyboard says yes."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ValueError("nothing was sent: give --yes to agree to the estimate above")
    if input("go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was sent")


def _backend(options: argparse.Namespace) -> Backend:
    if options.backend == "local":
        from audiostory.benchmark.judge.local import Local

        return Local(Path(options.model), temperature=options.temperature, device=options.device, seed=options.seed)
    from audiostory.benchmark.judge import gemini, openai_server
    from audiostory.benchmark.judge.backend import Key

    module = gemini if options.backend == "gemini" else openai_server
    make = gemini.Gemini if options.backend == "gemini" else openai_server.OpenAIServer
    key = Key.from_environment(*([options.key_env] if options.key_env else module.KEY_VARIABLES))
    if key is None and options.key_env:
        raise ValueError(f"the environment variable {options.key_env} of --key_env is not set")
    return make(
        options.model,
        key,
        base_url=options.base_url or module.DEFAULT_URL,
        temperature=options.temperature,
        timeout=options.timeout,
    )


def _asked(ask_all: Any, calls: Sequence[Call], sender: Sender, journal: Journal, title: str) -> list[Failure]:
    """ValueError when no request can work, which only another command line mends."""
    from audiostory.benchmark.judge.backend import UnusableError

    try:
        return ask_all(calls, sender, journal, title) if calls else []
    except UnusableError as error:
        raise ValueError(f"{error}; what was answered before is kept") from error


def _scores(axes: Sequence[str], planned: Sequence[Call], journal: Journal, num_untold: int) -> dict[str, Score]:
    from audiostory.benchmark.judge.scores import axis_scores, rubric_scores

    scores: dict[str, Score] = {}
    for name in axes:
        if any(call.axis == name for call in planned):  # not, say, the plans of a system that shows none
            if name == "rubric":
                scores |= rubric_scores(planned, journal.rows, num_untold)
            else:
                scores |= axis_scores(name, planned, journal.rows, num_untold)
    return scores


def _notes(facts: Mapping[str, Any], failures: Sequence[Failure]) -> list[str]:
    notes = []
    if facts["asked"]["shuffle"] is not None:
        notes.append("a control: every instruction was judged with what was told to another one")
    if untold := facts["stories"]["untold"]:
        listed = ", ".join(untold[:5]) + (" ..." if len(untold) > 5 else "")
        notes.append(f"{len(untold)} stories could not be told by their system ({listed}) and count 0")
    if failures:
        listed = "; ".join(f"{one.story}, {one.axis}, call {one.number}: {one.reason}" for one in failures[:3])
        notes.append(f"{len(failures)} questions got no answer and are in no mean ({listed}); run the command again")
    return notes


def _report(
    folder: Path,
    options: argparse.Namespace,
    scores: Mapping[str, Score],
    facts: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    from audiostory.benchmark import report

    name = "judged" if options.shuffle is None else "shuffled"
    page = report.Report(
        title=f"{facts['stories']['num']} stories judged by {facts['judge']['model']}",
        columns={name: scores},
        about={name: f"{facts['stories']['from']}, prompts {facts['judge']['prompts']}"},
        how_to_read=HOW_TO_READ,
        notes=notes,
        facts=facts,
    )
    report.write(folder, page)
    print(f"\n{page.title}\n\n{report.table(page.columns)}")
    for note in page.notes:
        print(f"note: {note}")
    print(f"written to {folder / 'report.md'} and report.json")


def _versions(backend: str) -> dict[str, str]:
    versions = {}
    for name in ("audiostory", *PACKAGES[backend]):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


if __name__ == "__main__":
    sys.exit(main())
