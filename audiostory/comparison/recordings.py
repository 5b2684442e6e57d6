"""The suites of items with references, AudioStory-10k's protocol and AudioCaps': told, then heard by known networks.

OUTPUT/told/SYSTEM/ID/    stories; OUTPUT/report.md, report.json, index.html; OUTPUT/features is a cache
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from audiostory.benchmark import page, paper, report
from audiostory.benchmark.entries import HeardStory, entries
from audiostory.benchmark.metrics.levels import LEVELS
from audiostory.benchmark.recorded import Item, Recorded, read_items, read_recorded, read_references
from audiostory.benchmark.report import Report
from audiostory.benchmark.scoring import (
    INCEPTION,
    NETWORKS,
    Cuts,
    Networks,
    Scored,
    common,
    cut_events,
    score,
    shuffled,
)
from audiostory.comparison import making, networks, tellers
from audiostory.comparison.config import Benchmark, Recordings
from audiostory.comparison.facts import versions
from audiostory.disk import sha256
from audiostory.processes import Place
from audiostory.story.types import Storyline
from audiostory.systems.asked import Asked
from audiostory.systems.telling import tell_all

HOW_TO_READ = """\
Every system is scored on the same items; n says how many. In brackets stands the 95 % bootstrap interval over stories.
FD, FAD and KAD are distances between all recordings of a system and all references, and have none; less is better, as
of KL; "of events" they are between the events cut out of both. Cosines are of CLAP, between a sound and its caption.
"Stories told" counts a system's failures, which no other measure sees. An event is what the system's own plan says,
where it left one, and else the reference's.
"""
CONTROLS = {
    "truth": "the references against themselves: the most that there is",
    "shuffled": "chance: each item answered with another one's reference, where it matters whose a recording is",
}


def run(benchmark: Benchmark, suite: Recordings, place: Place) -> Iterator[tuple[Path, Report]]:
    """The report with the folder that it was written to; of the first process, the others have none.

    ValueError for what a person must mend: before any work where that can be known.
    """
    output = Path(benchmark.output)
    if suite.table not in paper.TABLES:
        raise ValueError(
            f"suite.table is {suite.table}; of the paper's tables there are {', '.join(map(str, paper.TABLES))}"
        )
    items = read_items(Path(suite.items))
    if suite.num is not None and suite.num > len(items):
        raise ValueError(f"{suite.items} holds {len(items)} items, {suite.num} were asked; give suite.num less or null")
    items = items[: suite.num]
    if unknown := [name for name in suite.controls if name not in CONTROLS]:
        raise ValueError(f"suite.controls has {unknown[0]!r}; there are {', '.join(CONTROLS)}")
    loaded = networks.load(suite.metrics, suite.weights, output / "features", place.device(benchmark.device))
    systems = tellers.columns(benchmark, place)
    folders = {name: column.told_in(output / making.TOLD) for name, column in systems.items()}
    if num_heard := sum(item.instruction.audio is not None for item in items):
        otherwise = """ask for the others alone: grep -v '"heard"' FILE, into a file beside it"""
        tellers.check_hearing(systems, f"{suite.items} ({num_heard} of {len(items)} items)", otherwise)
    asked = list(map(_asked, items))
    for name, column in systems.items():
        if column.system:
            bar = f"items by {name}{place}"
            tell_all(column.system, asked, folders[name], rank=place.rank, processes=place.processes, progress=bar)
    place.wait_for_all()
    if not place.is_first:
        return
    sides = {name: read_recorded(folder, items, progress=f"reading {name}") for name, folder in folders.items()}
    sides["truth"] = read_references(items, progress="reading the references")
    kept, notes = common(items, sides)
    scored = _scored(kept, sides, suite, loaded, output, benchmark.seed)
    columns = {name: found.scores for name, found in scored.items() if name in systems or name in suite.controls}
    measured = {name: columns[name] for name in systems}
    found = Report(
        title=f"{len(kept)} items of {suite.name}",
        columns=columns,
        about={name: systems[name].about if name in systems else CONTROLS[name] for name in columns},
        how_to_read=HOW_TO_READ,
        notes=notes + [f"{name}: {note}" for name, one in scored.items() if name in columns for note in one.notes],
        beside_paper=[report.Comparison(table=paper.TABLES[suite.table], measured=measured)] if measured else (),
        facts={
            "versions": versions(),
            "items": {"file": str(suite.items), "sha256": sha256(Path(suite.items)), "num": len(items)},
            "systems": {name: column.facts for name, column in systems.items()},
            "fade_seconds": suite.fade_seconds,
            "seed": benchmark.seed,
            "networks": scored["truth"].facts,
            "fits": {name: one.fits for name, one in scored.items() if name in columns and one.fits},
        },
    )
    if suite.pages:
        shown = {name: sides[name] for name in columns if name in sides}
        own = {
            name: [HeardStory(scores=scored[name].by_story.get(item.id, {})) for item in items[: suite.pages]]
            for name in shown
        }
        page.write(output, page.Page(report=found, stories=entries(items[: suite.pages], shown, own)))
    report.write(output, found)
    yield output, found


def _scored(
    items: Sequence[Item],
    sides: Mapping[str, Recorded],
    suite: Recordings,
    loaded: Networks,
    output: Path,
    seed: int,
) -> dict[str, Scored]:
    def cut(name: str, told: Recorded) -> Cuts:
        stories = [told.stories[item.id] for item in items]
        return cut_events(stories, output / "events" / name, name) if {*suite.metrics} & {*NETWORKS} else {}

    def one(name: str, told: Recorded) -> Scored:
        return score(
            items,
            told,
            sides["truth"],
            suite.metrics,
            loaded,
            true_cuts if name == "truth" else cut(name, told),
            true_cuts,
            fade_seconds=suite.fade_seconds,
            seed=seed,
            shown=[item.id for item in items[: suite.pages]],
            progress=name,
        )

    true_cuts = cut("truth", sides["truth"])
    scored = {name: one(name, told) for name, told in sides.items()}
    if "shuffled" in suite.controls:
        chance = one("shuffled", shuffled(items, sides["truth"]))
        # What takes no heed of the order in which recordings come is the truth's own, and would pass for chance.
        same = {name for name, figure in chance.scores.items() if math.isnan(figure.low)}
        same |= {name for name in chance.scores if name.startswith(INCEPTION)} | {*LEVELS}
        paired = {name: figure for name, figure in chance.scores.items() if name not in same}
        scored["shuffled"] = replace(chance, scores=paired, notes=(), fits={})
    return scored


def _asked(item: Item) -> Asked:
    storyline = Storyline(summary=item.caption, events=item.events)
    return Asked(id=item.id, instruction=item.instruction, caption=item.caption, storyline=storyline)
