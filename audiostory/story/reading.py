"""What a script says, and what is wrong with it.

A planner may write anything, so reading never fails: the script is cut into events at every <|gen|>, each is read by
itself, the complete ones are kept, and a problem in plain words is listed for whatever is missing, broken or stray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from audiostory.story.prompts import Plan, PlannedEvent, parse_reasoning, shorten
from audiostory.story.timing import fill_gaps, lay_out, parse_duration
from audiostory.story.types import BridgeSlot, Event, Layout, Problem, ProblemKind, Reading, Storyline
from audiostory.story.vocabulary import Vocabulary


def read(
    ids: Sequence[int],
    vocabulary: Vocabulary,
    *,
    total_seconds: float | None = None,
    bridge: bool = True,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> Reading:
    """Storyline, slots and problems of an answer, or of a whole script, whose prompt is skipped. Any ids can be read.

    An event is complete, and kept, when both its bridge blocks are there to the last token (with `bridge=False`: when
    it is closed). A missing or unreadable duration is taken from the time range in the reasoning, else estimated from
    `total_seconds` and the other events (`timing.fill_gaps`). Where the `layout` has no captions in the events, an
    event's is the one that the reasoning has under its number. What the layout leaves out is stray where it stands.
    """
    tokens = tuple(int(token) for token in ids)
    start, stop = _answer(tokens, vocabulary)
    reasoning_stop, events_start, problems = _reasoning_bounds(tokens, start, stop, vocabulary)
    reasoning, strays = _text(tokens[start:reasoning_stop], vocabulary)
    problems += _stray_markers("the reasoning", None, strays)
    plan, found = _plan(reasoning, layout)
    problems += found

    openings = [i for i in range(events_start, stop) if tokens[i] == vocabulary.gen]
    problems += _between_events(tokens[events_start : min(openings, default=stop)], None, vocabulary)
    drafts: list[_Draft] = []
    for number, (opening, end) in enumerate(pairwise([*openings, stop]), 1):
        reader = _EventReader(number, vocabulary, bridge, layout)
        draft = reader.read(tokens, opening + 1, end)
        drafts += [draft] if draft else []
        problems += reader.problems

    events, found = _settle(drafts, plan, total_seconds, layout)
    problems += [*found, *_count_problems(plan, len(events))]
    return Reading(
        storyline=Storyline(summary=plan.summary, events=events, reasoning=reasoning),
        slots=tuple(draft.slot for draft in drafts if draft.slot is not None),
        problems=tuple(sorted(problems, key=lambda problem: problem.event or 0)),
    )


def reasoning_has_ended(ids: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether the reasoning that `read` finds stays as it is, whatever is written after these ids."""
    tokens = tuple(int(token) for token in ids)
    start, stop = _answer(tokens, vocabulary)
    _, _, problems = _reasoning_bounds(tokens, start, stop, vocabulary)
    bridge = (vocabulary.semantic_open, vocabulary.residual_open)
    # Unclosed, it ends at the first <|gen|> if bridge tokens show that an event has really begun.
    return not problems or max(_first(tokens, start, stop, *any_of) for any_of in (bridge, (vocabulary.gen,))) < stop


def read_answer(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """The text of an answer in words, or of a whole script with one, whose prompt is skipped. Reasoning before it and
    markers are left out; reasoning that does not end leaves no answer."""
    tokens = tuple(int(token) for token in ids)
    start = 0
    if tokens[:1] == (vocabulary.im_start,):  # a whole script: its answer follows the last turn's opening
        start = len(tokens) - tokens[::-1].index(vocabulary.im_start)
    stop = _first(tokens, start, len(tokens), *vocabulary.stop_ids)
    text, _ = _text(tokens[start:stop], vocabulary)
    if vocabulary.think in tokens[start:stop]:
        text, _ = _text(tokens[_first(tokens, start, stop, vocabulary.end_think) : stop], vocabulary)
    return text.removeprefix("assistant\n" if start else "").strip()


def _answer(ids: tuple[int, ...], vocabulary: Vocabulary) -> tuple[int, int]:
    """Where the answer starts, after the prompt if there is one, and where it stops, at the end of the turn if any."""
    start = 0
    if ids[:1] in ((vocabulary.im_start,), (vocabulary.think,)):
        head = ids[: _first(ids, 0, len(ids), vocabulary.end_think, vocabulary.gen)]
        if vocabulary.think in head:
            start = head.index(vocabulary.think) + 1
        else:
            start = len(head) - head[::-1].index(vocabulary.im_start)
    return start, _first(ids, start, len(ids), *vocabulary.stop_ids)


def _reasoning_bounds(
    ids: tuple[int, ...], start: int, stop: int, vocabulary: Vocabulary
) -> tuple[int, int, list[Problem]]:
    """Where the reasoning stops and where events may start: around <|/think|>, or at the first <|gen|> without one."""
    close = _first(ids, start, stop, vocabulary.end_think)
    # A <|gen|> before <|/think|> is a stray, unless bridge tokens show that an event has really begun.
    if close < stop and close < _first(ids, start, stop, vocabulary.semantic_open, vocabulary.residual_open):
        return close, close + 1, []
    gen = _first(ids, start, stop, vocabulary.gen)
    taken = "it is taken to end at the first <|gen|>" if gen < stop else "no event follows it"
    message = f"the reasoning is not closed by <|/think|>; {taken}"
    return gen, gen, [Problem(kind=ProblemKind.NO_REASONING_END, event=None, message=message)]


def _plan(reasoning: str, layout: Layout) -> tuple[Plan, list[Problem]]:
    if layout.reasoning:
        plan = parse_reasoning(reasoning)
        if not plan.faults:
            return plan, []
        message = f"the reasoning cannot be read in full: {'; '.join(plan.faults)}"
        return plan, [Problem(kind=ProblemKind.REASONING, event=None, message=message)]
    nothing = Plan(summary="", num_events=None, events=(), faults=())
    if not reasoning.strip():
        return nothing, []
    message = f"there is reasoning in a script that has none, which is ignored: {shorten(reasoning.strip())}"
    return nothing, [Problem(kind=ProblemKind.STRAY, event=None, message=message)]


def _first(ids: tuple[int, ...], start: int, stop: int, *wanted: int) -> int:
    """The first place in [start, stop) that holds one of the wanted ids, `stop` if none does."""
    return next((i for i in range(start, stop) if ids[i] in wanted), stop)


def _text(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """The text of ids that should all be text, and the names of those that are not."""
    text = vocabulary.decode([token for token in ids if vocabulary.is_text(token)])
    return text, [vocabulary.name(token) for token in ids if not vocabulary.is_text(token)]


def _between_events(ids: Sequence[int], event: int | None, vocabulary: Vocabulary) -> list[Problem]:
    """Problems for what stands where nothing should: before the first event, or after `event`."""
    where = "before the first event" if event is None else f"after event {event}"
    text, strays = _text(ids, vocabulary)
    problems = _stray_markers(f"the script {where}", event, strays)
    if text.strip():
        message = f"text {where} belongs to no event and is ignored: {shorten(text.strip())}"
        problems.append(Problem(kind=ProblemKind.STRAY, event=event, message=message))
    return problems


def _stray_markers(where: str, event: int | None, names: list[str]) -> list[Problem]:
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    message = f"{where} holds stray markers, which are ignored: {' '.join(names[:5])}{more}"
    return [Problem(kind=ProblemKind.STRAY, event=event, message=message)]


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A complete event whose duration may still be open; `fault` says why `seconds` is None."""

    number: int
    caption: str
    seconds: float | None
    fault: str
    slot: BridgeSlot | None


class _EventReader:
    """Reads one event token by token: text, a duration, the semantic and the residual block, the closing marker."""

    def __init__(self, number: int, vocabulary: Vocabulary, bridge: bool, layout: Layout):
        self.number = number
        self.vocabulary = vocabulary
        self.bridge = bridge
        self.layout = layout
        self.problems: list[Problem] = []
        self.blocks = {
            vocabulary.semantic_open: ("semantic", vocabulary.semantic_block),
            vocabulary.residual_open: ("residual", vocabulary.residual_block),
        }
        self.caption: list[int] = []  # text before the first block
        self.late: list[int] = []  # text after it
        self.clock: list[int] | None = None  # text since a <timestamp> that is still open
        self.durations: list[str] = []
        self.slots: dict[str, range] = {}
        self.damaged: dict[str, str] = {}  # what is wrong with a block that is not whole
        self.strays: list[str] = []

    def read(self, ids: tuple[int, ...], start: int, stop: int) -> _Draft | None:
        """The event in ids[start:stop], from after its <|gen|> to before the next; None if it is not complete."""
        # The last <|/gen|> closes: one that slipped in before it is a stray, and the event stays whole.
        close = next((i for i in reversed(range(start, stop)) if ids[i] == self.vocabulary.end_gen), stop)
        position = start
        while position < close:
            if ids[position] in self.blocks:
                position = self._block(ids, position, close)
            else:
                self._token(ids[position])
                position += 1
        self._drop_open_clock()
        complete = self._is_complete(closed=close < stop)
        self.strays += [f"(a broken {name} block)" for name in self.damaged if name in self.slots]
        self.problems += _stray_markers(f"event {self.number}", self.number, self.strays)
        self.problems += _between_events(ids[close + 1 : stop], self.number, self.vocabulary)
        return self._draft() if complete else None

    def _token(self, token: int) -> None:
        if token == self.vocabulary.timestamp:
            if self.clock is not None:  # the one before was a stray: its text goes back to where it stood
                self.strays.append("<timestamp>")
                self._words().extend(self.clock)
            self.clock = []
        elif token == self.vocabulary.end_timestamp and self.clock is not None:
            self.durations.append(self.vocabulary.decode(self.clock).strip())
            self.clock = None
        elif not self.vocabulary.is_text(token):
            self.strays.append(self.vocabulary.name(token))
        elif self.clock is not None:
            self.clock.append(token)
        else:
            self._words().append(token)

    def _words(self) -> list[int]:
        return self.late if self.slots or self.damaged else self.caption

    def _block(self, ids: tuple[int, ...], position: int, stop: int) -> int:
        """Takes the bridge block that opens at `position`; returns the place after it."""
        self._drop_open_clock()
        name, block = self.blocks[ids[position]]
        numbered, closing = block[:-1], block[-1]
        end = position + 1 + len(block)
        if end <= stop and ids[position + 1 : end] == block:
            if name in self.slots:
                self.strays.append(f"(a second {name} block)")
            self.slots.setdefault(name, range(position + 1, end - 1))
            return end
        end = position + 1
        while end < stop and ids[end] in numbered:
            end += 1
        count = end - position - 1
        self.damaged[name] = (
            f"{count} {name} tokens, {len(numbered)} expected"
            if count != len(numbered)
            else f"{name} tokens in disorder or not closed"
        )
        return end + 1 if end < stop and ids[end] == closing else end

    def _drop_open_clock(self) -> None:
        """A duration that was opened and not closed may be cut short ("1" of "12.7"), so it is not believed."""
        if self.clock is not None:
            self.strays.append("<timestamp>")
            self.clock = None

    def _is_complete(self, *, closed: bool) -> bool:
        names = [name for name, _ in self.blocks.values()] if self.bridge else []
        lacking = " and ".join(self.damaged.get(name, f"no {name} tokens") for name in names if name not in self.slots)
        if lacking and closed:
            self._problem(ProblemKind.BRIDGE, f"has {lacking}; it is left out")
        elif lacking or not (closed or self.bridge):
            cut = f"with {lacking}" if lacking else "before its <|/gen|>"
            self._problem(ProblemKind.BROKEN_OFF, f"breaks off {cut}; it is left out (if cut, raise max_new_tokens)")
        elif not closed:
            self._problem(ProblemKind.BROKEN_OFF, "lacks only its closing <|/gen|>, so it is kept")
        return not lacking and (closed or self.bridge)

    def _draft(self) -> _Draft:
        caption = self.vocabulary.decode(self.caption).strip()
        if caption and not self.layout.captions:
            self._problem(ProblemKind.STRAY, f"has a caption of its own, which is ignored: {shorten(caption)}")
        elif not caption and self.layout.captions:
            self._problem(ProblemKind.CAPTION, "has an empty caption; its sound is kept")
        if late := self.vocabulary.decode(self.late).strip():
            self._problem(ProblemKind.STRAY, f"goes on after its bridge tokens, which is ignored: {shorten(late)}")
        readable = [seconds for text in self.durations if (seconds := parse_duration(text)) is not None]
        if len(self.durations) > 1:
            taken = "the first that can be read is taken" if readable else "none can be read"
            self._problem(ProblemKind.DURATION, f"has {len(self.durations)} durations; {taken}")
        return _Draft(
            number=self.number,
            caption=caption,
            seconds=readable[0] if readable else None,
            fault=f"has an unreadable duration, {shorten(self.durations[0])}" if self.durations else "has no duration",
            slot=BridgeSlot(semantic=self.slots["semantic"], residual=self.slots["residual"]) if self.bridge else None,
        )

    def _problem(self, kind: ProblemKind, message: str) -> None:
        self.problems.append(Problem(kind=kind, event=self.number, message=f"event {self.number} {message}"))


def _settle(
    drafts: Sequence[_Draft], plan: Plan, total_seconds: float | None, layout: Layout
) -> tuple[tuple[Event, ...], list[Problem]]:
    """Events with details from the plan, every duration settled, starts laid out."""
    nothing, numbered = PlannedEvent(caption="", seconds=None), dict(enumerate(plan.events, 1))
    pairs = _pair(drafts, plan) if layout.captions else [numbered.get(draft.number) for draft in drafts]
    planned = [found or nothing for found in pairs]
    captions = [d.caption if layout.captions else p.caption for d, p in zip(drafts, planned, strict=True)]
    known = [p.seconds if d.seconds is None else d.seconds for d, p in zip(drafts, planned, strict=True)]
    seconds = fill_gaps(known, total_seconds)
    problems = []
    for draft, length, source in zip(drafts, seconds, known, strict=True):
        if draft.seconds is None:
            origin = "estimated" if source is None else "as planned in the reasoning"
            message = f"event {draft.number} {draft.fault}; it gets {length:g} s, {origin}"
            problems.append(Problem(kind=ProblemKind.DURATION, event=draft.number, message=message))
    for draft, caption in zip(drafts, captions, strict=True):
        if not (caption or layout.captions):
            message = f"event {draft.number} has no caption in the reasoning; its sound is kept"
            problems.append(Problem(kind=ProblemKind.CAPTION, event=draft.number, message=message))
    events = tuple(
        Event(caption=caption, seconds=s, start=start, story_detail=p.story_detail, sound_detail=p.sound_detail)
        for caption, p, s, start in zip(captions, planned, seconds, lay_out(seconds), strict=True)
    )
    return events, problems


def _pair(drafts: Sequence[_Draft], plan: Plan) -> list[PlannedEvent | None]:
    """For each event its place in the plan: the one with its caption and number, else the first with its caption, else
    the one with its number. Captions go before numbers because a lost or stray <|gen|> shifts the numbers."""
    free = dict(enumerate(plan.events, 1))
    pairs: dict[int, PlannedEvent] = {}
    for draft in drafts:
        same = [number for number, event in free.items() if event.caption == draft.caption]
        if same:
            pairs[draft.number] = free.pop(draft.number if draft.number in same else same[0])
    return [pairs.get(draft.number) or free.get(draft.number) for draft in drafts]


def _count_problems(plan: Plan, num_events: int) -> list[Problem]:
    announced = plan.num_events if plan.num_events is not None else len(plan.events) or None
    if not num_events:
        message = "the script holds no complete event"
    elif announced not in (None, num_events):
        message = f"the reasoning announces {announced} events, and {num_events} were written completely"
    elif plan.events and len(plan.events) != announced:
        message = f"the reasoning announces {announced} events and plans {len(plan.events)}"
    else:
        return []
    return [Problem(kind=ProblemKind.EVENT_COUNT, event=None, message=message)]
