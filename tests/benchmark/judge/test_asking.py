"""Patience, with a clock that nobody waits for: growing waits, Retry-After, the pace, what fails and what is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.judge.asking import FAILURES_IN_A_ROW, FailedError, Patience, Sender, ask_all
from audiostory.benchmark.judge.backend import BusyError, RefusedError, UnsendableError, UnusableError
from audiostory.benchmark.judge.calls import DRAWN, Call
from audiostory.benchmark.judge.journal import Journal

GOOD = '{"items": ["Is it raining?"]}'


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept, self._lock = 100.0, list[float](), threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds


class Script:
    """A back end that does what it is told: answers, or raises."""

    name, model, temperature = "script", "m", 0.0

    def __init__(self, acts: Sequence[str | Exception] | Callable[[str], str], clock: Clock | None = None) -> None:
        self._acts = acts if callable(acts) else iter(acts)
        self._clock, self.asked, self.times = clock, list[str](), list[float]()

    def ask(self, prompt: str, audio: Path | None) -> str:
        self.asked.append(prompt)
        self.times.append(self._clock() if self._clock else 0.0)
        act = self._acts(prompt) if callable(self._acts) else next(self._acts)
        if isinstance(act, Exception):
            raise act
        return act


def call(name: str = "a", audio: str | None = None) -> Call:
    heard = Path(audio) if audio else None
    return Call(key=name, story=name, axis=DRAWN, number=0, prompt=f"ask {name}", audio=heard, seconds=0.0)


def sender(backend: Script, clock: Clock, **patience) -> Sender:
    return Sender(backend, Patience(**patience), clock=clock, sleep=clock.sleep, seed=0)


def test_a_busy_server_is_tried_again_after_waits_that_double():
    clock = Clock()
    backend = Script([BusyError("500")] * 4 + [GOOD], clock)
    assert sender(backend, clock, first_wait=2.0).answer(call())["items"] == ["Is it raining?"]
    assert len(clock.slept) == 4
    for number, seconds in enumerate(clock.slept):
        assert 2.0 * 2**number / 2 <= seconds <= 2.0 * 2**number
    assert len({seconds / 2**number for number, seconds in enumerate(clock.slept)}) == 4  # jitter


def test_no_wait_is_longer_than_the_longest():
    clock = Clock()
    sender(Script([BusyError("500")] * 9 + [GOOD], clock), clock, tries=10, longest_wait=5.0).answer(call())
    assert max(clock.slept) <= 5.0


def test_after_the_last_try_it_fails_without_another_wait():
    clock = Clock()
    with pytest.raises(FailedError, match="503, after 3 tries"):
        sender(Script([BusyError("503")] * 3, clock), clock, tries=3).answer(call())
    assert len(clock.slept) == 2


def test_retry_after_is_obeyed_even_when_it_is_longer_than_any_wait():
    clock = Clock()
    backend = Script([BusyError("429", retry_after=300.0), GOOD], clock)
    sender(backend, clock, longest_wait=10.0).answer(call())
    assert 300 <= backend.times[1] - backend.times[0] <= 302


def test_retry_after_holds_back_every_other_question_too():
    clock = Clock()
    backend = Script([BusyError("429", retry_after=50.0), GOOD, GOOD], clock)
    one = sender(backend, clock, tries=1)
    with pytest.raises(FailedError):
        one.answer(call("a"))
    one.answer(call("b"))
    assert backend.times[1] - backend.times[0] >= 50


def test_a_server_that_asks_to_come_back_tomorrow_fails_the_question_now():
    clock = Clock()
    with pytest.raises(FailedError, match="it asks for 86400 s, too long"):
        sender(Script([BusyError("429", retry_after=86400.0)], clock), clock).answer(call())
    assert clock.slept == []


@settings(deadline=None)
@given(
    limit=st.floats(1, 600),
    failures=st.lists(st.booleans(), min_size=1, max_size=12),
    hold=st.none() | st.floats(0, 90),
)
def test_no_minute_holds_more_requests_than_the_limit(limit, failures, hold):
    clock = Clock()
    backend = Script([x for fails in failures for x in ([BusyError("429", hold)] if fails else []) + [GOOD]], clock)
    one = sender(backend, clock, requests_per_minute=limit, first_wait=0.001)
    for number in range(len(failures)):
        one.answer(call(str(number)))
    gaps = [later - before for before, later in zip(backend.times, backend.times[1:], strict=False)]
    assert all(gap >= 60 / limit - 1e-6 for gap in gaps)


def test_a_bad_form_is_asked_for_once_more_with_what_was_wrong():
    clock = Clock()
    backend = Script(["no idea", GOOD])
    one = sender(backend, clock)
    assert one.answer(call())["items"] == ["Is it raining?"]
    assert backend.asked[1].startswith("ask a\n\nAn earlier answer could not be used: it is not one JSON object (")
    assert one.tally == {"requests": 2, "asked again for the form": 1}
    with pytest.raises(FailedError, match=r"two answers could not be used: it is not .*; then the answer must have"):
        sender(Script(["no idea", '{"item": 3}']), clock).answer(call())


def test_a_refused_request_fails_at_once():
    backend = Script([RefusedError("the server answered 400"), GOOD])
    with pytest.raises(FailedError, match="400"):
        sender(backend, Clock()).answer(call())
    assert len(backend.asked) == 1


def test_failures_are_named_and_the_rest_is_kept_and_asked_only_once(tmp_path):
    clock, journal = Clock(), Journal(tmp_path / "j.jsonl")
    calls = [call(name) for name in "abcdef"]
    backend = Script(lambda prompt: "bad" if prompt.startswith("ask c") else GOOD)
    (failure,) = ask_all(calls, sender(backend, clock, in_flight=3), journal)
    assert (failure.story, failure.axis) == ("c", DRAWN)
    assert "two answers could not be used" in failure.reason
    assert Journal(journal.file).rows.keys() == set("abdef")
    again = Script(lambda prompt: GOOD)
    assert ask_all(calls, sender(again, clock), Journal(journal.file)) == []
    assert again.asked == ["ask c"]
    assert Journal(journal.file).rows.keys() == set("abcdef")


def test_a_key_that_is_no_good_ends_the_run_and_keeps_what_there_is(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    backend = Script([GOOD, UnusableError("the server answered 401"), *[GOOD] * 50])
    with pytest.raises(UnusableError):
        ask_all([call(str(n)) for n in range(40)], sender(backend, Clock(), in_flight=1), journal)
    assert Journal(journal.file).rows.keys() == {"0"}
    assert len(backend.asked) == 2


def test_after_many_failures_in_a_row_the_rest_is_not_asked(tmp_path):
    backend = Script(lambda prompt: (_ for _ in ()).throw(RefusedError("quota")))
    one = sender(backend, Clock(), in_flight=1)
    failures = sorted(
        ask_all([call(f"{n:02d}") for n in range(40)], one, Journal(tmp_path / "j.jsonl")), key=lambda one: one.story
    )
    assert len(failures) == 40
    assert len(backend.asked) == FAILURES_IN_A_ROW
    assert failures[0].reason == "quota"
    assert failures[-1].reason == "not asked, after 10 failures in a row, the last: quota"


@pytest.mark.parametrize("refusal", [RefusedError("413: too long"), UnsendableError("too long to be sent")])
def test_a_recording_that_is_refused_however_often_stops_no_other(tmp_path, refusal):
    calls = [call(f"long {n}", "long.wav") for n in range(3 * FAILURES_IN_A_ROW)] + [call("short", "short.wav")]
    backend = Script(lambda prompt: refusal if "long" in prompt else GOOD)
    journal = Journal(tmp_path / "j.jsonl")
    failures = ask_all(calls, sender(backend, Clock(), in_flight=1), journal)
    assert {failure.reason for failure in failures} == {str(refusal)}
    assert journal.rows.keys() == {"short"}


def test_recordings_that_cannot_be_sent_say_nothing_of_the_server(tmp_path):
    calls = [call(f"long {n}", f"{n}.wav") for n in range(3 * FAILURES_IN_A_ROW)] + [call("short", "short.wav")]
    backend = Script(lambda prompt: UnsendableError("too long") if "long" in prompt else GOOD)
    journal = Journal(tmp_path / "j.jsonl")
    assert len(ask_all(calls, sender(backend, Clock(), in_flight=1), journal)) == 3 * FAILURES_IN_A_ROW
    assert journal.rows.keys() == {"short"}


def test_a_server_that_refuses_every_recording_is_left_alone(tmp_path):
    calls = [call(f"{story:02d} {n}", f"{story}.wav") for story in range(40) for n in range(5)]
    backend = Script(lambda prompt: RefusedError("400: no sound is taken here"))
    failures = ask_all(calls, sender(backend, Clock(), in_flight=1), Journal(tmp_path / "j.jsonl"))
    assert len(failures) == len(calls)
    assert len(backend.asked) == 5 * (FAILURES_IN_A_ROW - 1) + 1


def test_a_server_that_stays_busy_is_left_alone_though_all_questions_are_about_one_recording(tmp_path):
    backend = Script(lambda prompt: BusyError("503"))
    one = sender(backend, Clock(), in_flight=1, tries=1)
    ask_all([call(str(n), "one.wav") for n in range(40)], one, Journal(tmp_path / "j.jsonl"))
    assert len(backend.asked) == FAILURES_IN_A_ROW


def test_an_interruption_lets_what_is_on_its_way_arrive_and_wakes_who_waits(tmp_path, monkeypatch):
    """Ctrl-C comes while one question is being answered, another waits for minutes, and a third has not begun."""
    answering, waits = threading.Event(), threading.Event()

    def answer(prompt: str) -> str:
        if prompt == "ask busy":
            answering.wait(10)
            waits.set()
            raise BusyError("429", retry_after=500.0)
        answering.set()
        waits.wait(10)
        return GOOD

    def interrupted(*_):
        waits.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("audiostory.benchmark.judge.asking._progress", interrupted)
    journal = Journal(tmp_path / "j.jsonl")
    real = Sender(Script(answer), Patience(in_flight=2))
    with pytest.raises(KeyboardInterrupt):
        ask_all([call("busy"), call("a"), call("b")], real, journal)
    assert Journal(journal.file).rows.keys() == {"a"}


def test_a_half_line_is_cut_off_and_told(tmp_path):
    file = tmp_path / "j.jsonl"
    journal = Journal(file)
    journal.add({"key": "a"})
    whole = file.read_bytes()
    for length in range(1, len(whole)):
        file.write_bytes(whole + whole[:length])
        again = Journal(file)
        assert (again.cut, again.rows.keys()) == (length, {"a"})
        assert file.read_bytes() == whole
    assert Journal(file).cut == 0


def test_a_line_that_is_no_answer_is_an_error(tmp_path):
    file = tmp_path / "j.jsonl"
    for content in ("[1]\n", '{"story": "a"}\n', '{"key": \n{"key": "a"}\n'):
        file.write_text(content)
        with pytest.raises(ValueError, match="line 1"):
            Journal(file)


def test_of_two_answers_to_one_question_the_first_counts(tmp_path):
    file = tmp_path / "j.jsonl"
    file.write_text("".join(json.dumps({"key": "a", "n": n}) + "\n" for n in range(3)))
    assert Journal(file).rows["a"]["n"] == 0
