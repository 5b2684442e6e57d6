"""One step at a time: what is left to do is done, by whichever workers, and noted in the step's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from audiostory.as10k.ledger import Dropped, Entry, Ledger, PassedOver, Refused

GIVE_UP = 10  # things in a row without an answer: then the model is not there, and asking on costs hours


@dataclass(frozen=True, kw_only=True)
class Job:
    """A thing to make. `given` is what the making function needs, as JSON holds it."""

    key: str
    made_of: str
    given: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job: an entry, or, for a model that did not answer, why there is none. A refusal is both: its
    entry counts if the model turns out to answer at all. One that is `passed_over` counts in this run alone."""

    entry: Entry | None = None
    unanswered: str = ""
    passed_over: bool = False


Make = Callable[[Job], "tuple[Mapping[str, Any], Mapping[str, int]]"]
"""Makes one thing: its result, and the sizes of the files it wrote. Dropped when nothing comes of it."""

Workers = Callable[[Make, Sequence[Job]], Iterator[Outcome]]
"""Makes many, in any order. Whatever else than Dropped and ConnectionError goes wrong is raised."""


@dataclass(kw_only=True)
class Count:
    """A line of the summary: of so many things found, so many were kept, and why the others were not."""

    step: str
    unit: str
    found: int = 0
    kept: int = 0
    new: int = 0
    unanswered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)

    def drop(self, key: str, reason: str, detail: str = "") -> None:
        self.reasons[reason] += 1
        self.dropped.append({"step": self.step, "key": key, "reason": reason, "detail": detail})


def attempt(make: Make, job: Job) -> Outcome:
    """One job, with what may well happen turned into an outcome."""
    try:
        result, files = make(job)
    except Dropped as why:
        entry = Entry(key=job.key, made_of=job.made_of, dropped=why.reason, detail=why.detail)
        unanswered = f"{job.key}: {why}" if isinstance(why, Refused) else ""
        return Outcome(entry=entry, unanswered=unanswered, passed_over=isinstance(why, PassedOver))
    except ConnectionError as error:
        return Outcome(unanswered=f"{job.key}: {error}")
    except TimeoutError as error:
        return Outcome(unanswered=f"{job.key}: no answer in time ({error})")
    return Outcome(entry=Entry(key=job.key, made_of=job.made_of, result=result, files=files))


def here(workers: int) -> Workers:
    """Threads of this process. Decoders and models that are asked elsewhere leave the interpreter to others."""

    def run(make: Make, jobs: Sequence[Job]) -> Iterator[Outcome]:
        if workers == 1:
            yield from (attempt(make, job) for job in jobs)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: set[Future[Outcome]] = set()
            try:
                for job in jobs:  # a few ahead, so that stopping is quick and little lies in memory
                    waiting.add(pool.submit(attempt, make, job))
                    if len(waiting) >= 2 * workers:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                yield from (future.result() for future in waiting)
            finally:
                for future in waiting:
                    future.cancel()

    return run


def do(
    count: Count,
    jobs: Sequence[Job],
    make: Make,
    ledger: Ledger,
    workers: Workers,
    watch: Callable[[Iterable[Outcome], int, str], Iterable[Outcome]],
    *,
    again: bool = False,
) -> dict[str, Entry]:
    """The entries of the jobs that were kept, by key in the order of the jobs; `count` is filled in.

    What the ledger holds is not made anew, but for what was dropped if `again`. `watch` wraps the outcomes of so many
    jobs of a step with that name. ValueError when a model does not answer, or refuses, GIVE_UP times in a row; what it
    refused before it has answered once is not noted, and asked again by the next run.
    """
    count.found += len(jobs)
    todo = [
        job for job in jobs if not ledger.holds(job.key, job.made_of) or (again and ledger.entries[job.key].dropped)
    ]
    silence, answered, refused, passed_over = 0, False, list[Entry](), dict[str, Entry]()

    def note(*entries: Entry) -> None:
        for entry in entries:
            ledger.add(entry)
        count.new += len(entries)

    for outcome in watch(workers(make, todo), len(todo), count.step) if todo else ():
        if outcome.unanswered:
            silence += 1
            if silence == GIVE_UP:
                raise ValueError(
                    f"no answer for {GIVE_UP} in a row, the last one: {outcome.unanswered}; run it again, it goes on"
                )
            refused += [outcome.entry] if outcome.entry else []
            continue
        assert outcome.entry is not None
        if outcome.passed_over:
            passed_over[outcome.entry.key] = outcome.entry
            continue
        note(*refused, outcome.entry)  # whoever answers this one meant what was refused before
        silence, answered = 0, True
        refused.clear()
    if answered:
        note(*refused)
    kept = {}
    for job in jobs:
        entry = ledger.entries[job.key] if ledger.holds(job.key, job.made_of) else passed_over.get(job.key)
        if entry is None:
            count.unanswered += 1
        elif entry.dropped:
            count.drop(job.key, entry.dropped, entry.detail)
        else:
            kept[job.key] = entry
    count.kept += len(kept)
    return kept
