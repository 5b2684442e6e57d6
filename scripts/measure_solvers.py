"""Measures what fewer denoising steps cost: quality against evaluations of the DiT, for each solver.

    python scripts/measure_solvers.py --num 40 --output runs/solvers
    python scripts/measure_solvers.py --model_path runs/stage3/export --solver euler ab2 --evaluations 6 8 10 12

The model is given the true storylines of the sound world's exam, so that nothing here is the planner's fault, and
renders each by every way from the same noise. Told are how far the latents are from those of a reference of many steps,
what the ear hears in the clips, and the seconds that denoising takes. A step of midpoint or heun costs two evaluations,
so those take half as many steps. OUTPUT gets solvers.json, solvers.md (a table) and solvers.png (the curves).

The same command goes on where it was stopped, and with more stories, solvers or evaluations adds what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiostory.disk import replacing, sha256, write_text
from audiostory.lines import append_line, drop_unfinished, read_lines
from audiostory.model import solvers

if TYPE_CHECKING:  # at run time they come late, so that --help and a slip of the pen are answered at once
    from torch import Tensor

    from audiostory.benchmark.ear import Ear
    from audiostory.benchmark.intervals import Score
    from audiostory.benchmark.items import Heard, TrueStory
    from audiostory.pipeline import Plan
    from audiostory.sound import Waveform
    from audiostory.systems.ours import Ours

LINES = "rendered.jsonl"
ERROR, SOUND, LESS, ALL, ALIKE, SECONDS, PROCESSOR = (  # the measures of the table; solvers.json has more
    "latent error",
    "sound right",
    "sound right, less the reference's",
    "all sounds of a story right",
    "heard as the reference",
    "seconds a story",
    "processor seconds",
)
HOW_TO_READ = f"""\
Every cell is a mean with its 95 % interval over stories.

- {ERROR}: how far the latents are from the reference's, relative to the size of these (RMS).
- {SOUND}: the share of events in which the ear hears the true sound.
- {LESS}: the difference, story by story; an interval that holds 0 shows none.
- {ALL}: the share of stories in which every event is heard right.
- {ALIKE}: the share of clips in which the ear hears the same sound as in the reference's, right or wrong.
- {SECONDS}: of denoising alone. {PROCESSOR}: the same, of all cores together; beside other work only these count.
"""


class Way(NamedTuple):
    """One way to denoise."""

    solver: str
    steps: int

    @property
    def evaluations(self) -> int:
        return solvers.evaluations(self.solver, self.steps)


class Rendered(NamedTuple):
    """A story rendered one way; `heard` has name, place and register of each clip."""

    latent_error: float
    seconds: float
    processor_seconds: float
    heard: list[dict[str, str]]


Results = dict[tuple[str, Way], Rendered]


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add(
        "--solver",
        nargs="+",
        default=list(solvers.EVALUATIONS),
        metavar="NAME",
        help=f"{', '.join(solvers.EVALUATIONS)}",
    )
    add("--evaluations", type=int, nargs="+", default=[4, 8, 12, 16, 24, 50], metavar="N", help="[4 8 12 16 24 50]")
    add(
        "--reference",
        type=int,
        default=100,
        metavar="N",
        help="steps of midpoint, half as many evaluations [%(default)s]",
    )
    add("--num", type=int, default=40, help="stories, the first of the manifest [%(default)s]")
    add("--model_path", type=Path, metavar="DIR", help="the model's folder (the bundled audiostory-mini)")
    stories = Path("corpora/stories-test/manifest.jsonl")
    add("--stories", type=Path, default=stories, metavar="FILE", help="manifest of the exam [%(default)s]")
    add("--ear", type=Path, metavar="DIR", help="the listener's folder (the bundled one)")
    add("--guidance", type=float, help="the model's own")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (cuda if there is one)")
    add("--seed", type=int, default=0, help="of the noise [%(default)s]")
    add("--output", type=Path, default=Path("runs/solvers"), metavar="DIR", help="[%(default)s]")
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
        print("\ninterrupted; what was rendered is kept, run it again to go on", file=sys.stderr)
        return 130
    return 0


def measure(options: argparse.Namespace) -> None:
    ways, reference = ways_of(options.solver, options.evaluations), Way("midpoint", options.reference)
    if max(way.evaluations for way in ways) >= reference.evaluations:
        raise ValueError(
            f"the reference costs {reference.evaluations} evaluations and must be far above the others; "
            "raise --reference"
        )
    from audiostory.benchmark.ear import BUNDLED, Ear
    from audiostory.benchmark.items import read_truth
    from audiostory.pipeline import MINI
    from audiostory.systems.ours import Ours
    from audiostory.systems.telling import keep_settings

    truths = read_truth(options.stories)
    if not 1 <= options.num <= len(truths):
        raise ValueError(f"{options.stories} holds {len(truths)} stories, --num {options.num} were asked")
    truths = truths[: options.num]
    ear_folder = options.ear or BUNDLED
    ear, _ = Ear.load(ear_folder)
    model = Ours(
        options.model_path or MINI,
        device=options.device,
        seed=options.seed,
        steps=reference.steps,
        guidance=options.guidance,
        solver=reference.solver,
        true_storyline=True,
    )
    facts = {
        **model.settings,
        "stories_sha256": sha256(options.stories),
        "ear_sha256": sha256(ear_folder / "ear.safetensors"),
    }
    keep_settings(options.output, facts)
    file = options.output / LINES
    drop_unfinished(file)
    results = read_results(file)
    for truth, way, rendered in _render(model, ear, truths, [reference, *ways], results):
        results[truth.id, way] = rendered
        append_line(file, {"id": truth.id, **way._asdict(), **rendered._asdict()})
    scores = {way: score(truths, way, reference, results) for way in [reference, *ways]}
    _write(options.output, scores, facts | {"stories": len(truths)})


def ways_of(names: Sequence[str], evaluations: Sequence[int]) -> list[Way]:
    """As many steps of each solver as the evaluations allow; an odd one is left over by those whose steps cost two."""
    ways = []
    for name in names:
        solvers.check(name)
        for most in evaluations:
            if most < solvers.EVALUATIONS[name]:
                raise ValueError(f"a step of {name} costs {solvers.EVALUATIONS[name]} evaluations, {most} were given")
            ways.append(Way(name, most // solvers.EVALUATIONS[name]))
    return list(dict.fromkeys(ways))


def read_results(file: Path) -> Results:
    """What was rendered before. ValueError names a line that is not as it should be."""
    results: Results = {}
    for where, row in read_lines(file) if file.is_file() else ():
        try:
            way = Way(row["solver"], row["steps"])
            results[row["id"], way] = Rendered(**{name: row[name] for name in Rendered._fields})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is no rendering ({error!r}); delete the file") from error
    return results


def _render(
    model: Ours, ear: Ear, truths: Sequence[TrueStory], ways: Sequence[Way], held: Results
) -> Iterator[tuple[TrueStory, Way, Rendered]]:
    """What is missing, story by story, so that a slow hour of the machine is slow for all ways. The first way is the
    reference, and is done again where another is missing."""
    from tqdm.auto import tqdm

    from audiostory.systems.asked import story_seed

    left = {truth.id: [way for way in ways if (truth.id, way) not in held] for truth in truths}
    with tqdm(total=len(truths) * len(ways), desc="rendering", unit="story") as bar:
        bar.update(bar.total - sum(map(len, left.values())))
        for truth in truths:
            if not left[truth.id]:
                continue
            plan = model.pipeline.plan_from_storyline(truth.storyline, truth.instruction)
            seed = story_seed(model.seed, truth.id)
            true: list[Tensor] = []
            for way in dict.fromkeys([ways[0], *left[truth.id]]):
                latents, seconds, clips = _denoise(model, plan, seed, way)
                true = true or latents
                if way in left[truth.id]:
                    yield truth, way, Rendered(_relative(latents, true), seconds[0], seconds[1], _hear(ear, clips))
                    bar.update()


def _denoise(model: Ours, plan: Plan, seed: int, way: Way) -> tuple[list[Tensor], list[float], Sequence[Waveform]]:
    """The latents of the clips, the seconds and the processor's seconds until they were there, and the clips."""
    clocks = (time.perf_counter, time.process_time)
    latents: list[Tensor] = []
    seconds: list[float] = []
    began = [clock() for clock in clocks]

    def keep(found: Sequence[Tensor]) -> None:
        latents.extend(clip.float().cpu() for clip in found)  # which waits for a GPU
        seconds.extend(round(clock() - start, 4) for clock, start in zip(clocks, began, strict=True))

    choices: dict[str, Any] = {**way._asdict(), "guidance": model.guidance}
    told = model.pipeline.render(plan, seed=seed, **choices, on_latents=keep, progress=False)
    return latents, seconds, told.clips


def _relative(latents: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The RMS of what differs, over that of the true ones."""
    wrong = sum(float((one - other).square().sum()) for one, other in zip(latents, true, strict=True))
    return (wrong / sum(float(clip.square().sum()) for clip in true)) ** 0.5


def _hear(ear: Ear, clips: Sequence[Waveform]) -> list[dict[str, str]]:
    from audiostory import sound

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number:03d}.wav" for number in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            sound.write(file, clip)
        return [{"name": one.name, "place": one.place, "register": one.register} for one in ear.hear(files)]


def score(truths: Sequence[TrueStory], way: Way, reference: Way, results: Results) -> dict[str, Score]:
    """The measures of a way over the stories."""
    from audiostory.benchmark.intervals import bootstrap
    from audiostory.benchmark.soundworld import score_cast, score_sounds

    own = [results[truth.id, way] for truth in truths]
    others = [results[truth.id, reference] for truth in truths]
    right = [_right(truth, one) for truth, one in zip(truths, own, strict=True)]
    less = [
        [a - b for a, b in zip(mine, _right(truth, other), strict=True)]
        for truth, mine, other in zip(truths, right, others, strict=True)
    ]
    alike = [
        [a["name"] == b["name"] for a, b in zip(one.heard, other.heard, strict=True)]
        for one, other in zip(own, others, strict=True)
    ]
    answers = [[_answer(clip) for clip in one.heard] for one in own]
    return {
        ERROR: bootstrap([one.latent_error] for one in own),
        LESS: bootstrap(less),
        ALL: bootstrap([all(row)] for row in right),
        ALIKE: bootstrap(alike),
        SECONDS: bootstrap([one.seconds] for one in own),
        PROCESSOR: bootstrap([one.processor_seconds] for one in own),
        **score_sounds(truths, answers),
        **score_cast(truths, answers),
    }


def _right(truth: TrueStory, rendered: Rendered) -> list[bool]:
    return [heard["name"] == event.name for event, heard in zip(truth.events, rendered.heard, strict=True)]


def _answer(heard: Mapping[str, str]) -> Heard:
    import numpy as np

    from audiostory.benchmark.items import Heard

    return Heard(**heard, features=np.empty(0), logits=np.empty(0))  # no measure here asks for those


def _write(folder: Path, scores: Mapping[Way, Mapping[str, Score]], facts: Mapping[str, Any]) -> None:
    from audiostory.benchmark import paper
    from audiostory.benchmark.report import in_words

    reference = next(iter(scores))
    found = [
        {**way._asdict(), "evaluations": way.evaluations, "scores": {name: asdict(one) for name, one in row.items()}}
        for way, row in scores.items()
    ]
    content = {"facts": facts, "reference": reference._asdict(), "ways": found}
    write_text(folder / "solvers.json", json.dumps(content, indent=1) + "\n")
    measures = (ERROR, SOUND, LESS, ALL, ALIKE, SECONDS, PROCESSOR)
    words = in_words({str(number): row for number, row in enumerate(scores.values())}).values()
    rows = [["solver", "steps", "evaluations", *measures]]
    for way, cells in zip(scores, words, strict=True):
        name = way.solver + (" (reference)" if way == reference else "")
        rows.append([name, str(way.steps), str(way.evaluations), *(cells[measure] for measure in measures)])
    table = paper.in_markdown(rows)
    page = f"# Solvers on {facts['stories']} stories, guidance {facts['guidance']:g}\n\n{table}\n{HOW_TO_READ}"
    write_text(folder / "solvers.md", page)
    _draw(folder / "solvers.png", scores)
    print(table)
    print(f"written to {folder}")


def _draw(path: Path, scores: Mapping[Way, Mapping[str, Score]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    reference, *ways = scores
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4), layout="constrained")
    for panel, measure in zip(axes, (ERROR, SOUND, ALIKE), strict=True):
        for place, name in enumerate(dict.fromkeys(way.solver for way in ways)):
            mine = sorted((way for way in ways if way.solver == name), key=lambda way: way.steps)
            found = [scores[way][measure] for way in mine]
            bars = [[one.mean - one.low for one in found], [one.high - one.mean for one in found]]
            evaluations = [way.evaluations * 1.02**place for way in mine]  # side by side where they are equal
            panel.errorbar(evaluations, [one.mean for one in found], yerr=bars, marker="o", capsize=2, label=name)
        panel.set(title=measure, xlabel="evaluations of the DiT", xscale="log")
        ticks = sorted({way.evaluations for way in ways})
        panel.set_xticks(ticks, map(str, ticks))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0].set(yscale="log", ylabel="relative RMS")
    axes[1].axhline(scores[reference][SOUND].mean, color="black", linewidth=0.8, linestyle=":", label="reference")
    axes[1].legend(fontsize="small")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
