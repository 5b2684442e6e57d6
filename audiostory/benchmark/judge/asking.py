"""Puts questions to a back end, a few at a time, with patience: a pace that the server allows, waits that grow, one
more try when the form of an answer is wrong. What finally fails is handed back by name; it is nobody's zero."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, Protocol

from audiostory.benchmark.judge.backend import Backend, BusyError, RefusedError, UnsendableError, UnusableError
from audiostory.benchmark.judge.calls import Call
from audiostory.benchmark.judge.journal import Journal
from audiostory.benchmark.judge.prompts import ASK_AGAIN
from audiostory.model_answers import AnswerError

FAILURES_IN_A_ROW = 10  # then something is wrong with all questions, such as a quota that is used up


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The wait after the k-th try is drawn from the upper half of `first_wait` * 2^k seconds, `longest_wait` at most. A
    server that asks for more is obeyed, up to `longest_retry_after`; beyond that the question fails now."""

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 600.0
    requests_per_minute: float | None = None
    in_flight: int = 4


class Question(Protocol):
    """What a `Sender` needs of a `Call`; others ask by it too."""

    @property
    def prompt(self) -> str: ...
    @property
    def audio(self) -> Path | None: ...
    def read(self, text: str) -> dict[str, Any]:
        """The row for this answer. AnswerError when it is not in the form that was asked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A question without an answer."""

    story: str
    axis: str
    number: int
    reason: str


class StoppedError(Exception):
    """The run ends; the question was given up. The message says why."""


class FailedError(Exception):
    """The question has no answer, and this is why."""


class Sender:
    """Sends requests for several threads, and counts them in `tally`: requests, tries again, forms asked again.
    After FAILURES_IN_A_ROW it sets `stop`, and sends no more. All that is refused or misread of one recording counts
    once, and a recording that cannot be sent not at all: they say nothing of the others.

    `sleep` and `clock` (seconds) are there for tests; by default waits end at once when `stop` is set.
    """

    def __init__(
        self,
        backend: Backend,
        patience: Patience,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
        seed: int | None = None,
    ) -> None:
        self.backend, self.patience, self.stop, self.tally = backend, patience, Event(), Counter[str]()
        self._clock, self._sleep, self._random = clock, sleep or self.stop.wait, random.Random(seed)
        self._lock, self._next_turn, self._held_until = Lock(), clock(), clock()
        self._failed_in_a_row: set[object] = set()
        self._last_failure = ""

    def answer(self, call: Question) -> dict[str, Any]:
        """The journal's row. FailedError says why there is none."""
        if self.stop.is_set():
            raise self._stopped()
        try:
            row = self._in_form(call)
        except FailedError as error:
            with self._lock:
                self._failed_in_a_row |= _blamed(call, error)
                if len(self._failed_in_a_row) >= FAILURES_IN_A_ROW:
                    self._last_failure = self._last_failure or str(error)
                    self.stop.set()
            raise
        with self._lock:
            self._failed_in_a_row.clear()
        return row

    def _stopped(self) -> StoppedError:
        if not self._last_failure:
            return StoppedError("the run was stopped")
        return StoppedError(f"not asked, after {FAILURES_IN_A_ROW} failures in a row, the last: {self._last_failure}")

    def _in_form(self, call: Question) -> dict[str, Any]:
        """The answer, asked for once more when its form is wrong."""
        try:
            return call.read(self._send(call.prompt, call.audio))
        except AnswerError as problem:
            self._count("asked again for the form")
            try:
                return call.read(self._send(call.prompt + ASK_AGAIN.format(problem=problem), call.audio))
            except AnswerError as again:
                raise FailedError(f"two answers could not be used: {problem}; then {again}") from again

    def _send(self, prompt: str, audio: Path | None) -> str:
        """One answer, after as many tries as patience has."""
        patience = self.patience
        for number in range(patience.tries):
            self._wait_for_turn()
            self._count("requests")
            try:
                return self.backend.ask(prompt, audio)
            except RefusedError as error:
                raise FailedError(str(error)) from error
            except BusyError as error:
                wait = min(patience.longest_wait, patience.first_wait * 2**number) * self._random.uniform(0.5, 1)
                if error.retry_after is not None:
                    if error.retry_after > patience.longest_retry_after:
                        raise FailedError(f"{error}; it asks for {error.retry_after:.0f} s, too long") from error
                    self._hold(error.retry_after)
                    # Not all at once when the server is back.
                    wait = max(wait, error.retry_after + self._random.uniform(0, patience.first_wait))
                if number + 1 == patience.tries:
                    raise FailedError(f"{error}, after {patience.tries} tries") from error
            self._count("tried again")
            self._pause(wait)
        raise AssertionError("the last try returns or raises")

    def _wait_for_turn(self) -> None:
        """Requests start at even distances, so that no minute holds more than the limit, and none while the server asks
        for peace, which it may do while others wait."""
        distance = 60 / self.patience.requests_per_minute if self.patience.requests_per_minute else 0
        while True:
            with self._lock:
                now = self._clock()
                turn = max(now, self._next_turn, self._held_until)
                self._next_turn = turn + distance
            self._pause(turn - now)
            with self._lock:
                if self._held_until <= self._clock():
                    return

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self.stop.is_set():
            raise self._stopped()

    def _count(self, what: str) -> None:
        with self._lock:
            self.tally[what] += 1


def _blamed(call: Question, error: FailedError) -> set[object]:
    """Who has failed: the recording, if it is what was refused, else the question; nobody if nothing was sent."""
    if isinstance(error.__cause__, UnsendableError):
        return set()
    if isinstance(error.__cause__, BusyError):
        return {object()}  # each costs minutes of trying again, whatever it is about
    return {call.audio or call.prompt}


def ask_all(calls: Sequence[Call], sender: Sender, journal: Journal, progress: str | None = None) -> list[Failure]:
    """Asks what the journal does not hold yet, and keeps each answer at once. Returns what failed.

    UnusableError when no request can work. After FAILURES_IN_A_ROW the rest is not asked, and counts as failed.
    """
    left = [call for call in calls if call.key not in journal.rows]
    failures: list[Failure] = []
    with ThreadPoolExecutor(sender.patience.in_flight) as pool:
        futures = {pool.submit(_ask, call, sender, journal): call for call in left}
        try:
            for future in _progress(as_completed(futures), len(calls), len(calls) - len(left), progress):
                call = futures[future]
                try:
                    future.result()
                except (FailedError, StoppedError) as error:
                    failures.append(Failure(story=call.story, axis=call.axis, number=call.number, reason=str(error)))
        except BaseException:  # UnusableError, or Ctrl-C: what is on its way is still waited for and kept
            sender.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _ask(call: Call, sender: Sender, journal: Journal) -> None:
    try:
        journal.add(sender.answer(call))
    except UnusableError:
        sender.stop.set()
        raise


def _progress(futures: Iterable[Any], total: int, done: int, title: str | None) -> Iterable[Any]:
    from tqdm.auto import tqdm

    return tqdm(futures, total=total, initial=done, desc=title, unit="answer", disable=title is None)
