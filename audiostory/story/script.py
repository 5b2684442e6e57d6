"""The script: a whole exchange as tokens. `write` makes it from a storyline, `read` makes a storyline of tokens.

    CHAT FRAME AND INSTRUCTION<|think|>REASONING<|/think|>
    then for each event  <|gen|>CAPTION<timestamp>SECONDS</timestamp><t5>...</t5><aud>...</aud><|/gen|>
    and at the end       <|im_end|>

A model may do without the reasoning's text, or without the captions in its events (`Layout`).

An answer to a question about a recording is a script too, without reasoning and events (`question`, `write_answer`):

    CHAT FRAME, RECORDING AND QUESTION, then ANSWER<|im_end|>

The role of a token is decided in the same pass that writes it. `read`, `read_answer` and `reasoning_has_ended`
(in reading.py) and `reconcile` (in timing.py) are used under this module's name: `script.write`, `script.read`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from audiostory.story.prompts import check, count_span, prompt_text, question_text, reasoning_text
from audiostory.story.reading import read, read_answer, reasoning_has_ended
from audiostory.story.timing import reconcile, timeline
from audiostory.story.types import BridgeSlot, Instruction, Layout, Role, Script, Storyline
from audiostory.story.vocabulary import Vocabulary

__all__ = ["prompt", "question", "read", "read_answer", "reasoning_has_ended", "reconcile", "write", "write_answer"]


def prompt(instruction: Instruction, vocabulary: Vocabulary, lead: str = "", num_listening: int = 0) -> list[int]:
    """The ids a planner is given: chat frame and instruction, with the reasoning just opened.

    A recording is heard at `num_listening` tokens in all, right before the text. ValueError for an empty instruction, a
    bad total duration, special tokens in the text, or a recording without tokens.
    """
    _plain_ids("the instruction", lead + instruction.text, vocabulary)
    return vocabulary.encode(prompt_text(instruction, lead, num_listening))


def question(instruction: Instruction, vocabulary: Vocabulary, num_listening: int = 0) -> list[int]:
    """The ids a planner is given to answer in words: as `prompt`, but no reasoning is opened and no length is told."""
    _plain_ids("the question", instruction.text, vocabulary)
    return vocabulary.encode(question_text(instruction, num_listening))


def write(
    instruction: Instruction,
    storyline: Storyline,
    vocabulary: Vocabulary,
    *,
    lead: str = "",
    num_listening: int = 0,
    bridge: bool = True,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> Script:
    """The exchange a planner learns from. With `bridge=False` the events carry no bridge tokens and there are no slots.

    With a recording, heard at `num_listening` tokens in all, the storyline is what follows it.
    `storyline.reasoning` is written as it stands if there is any, else `reasoning_text(storyline)`. `read` gives the
    storyline back, its reasoning filled in, whenever it is well-formed:
    - it has an event; captions are not empty; summary, captions and details are one line each, without space around;
    - no text holds a special token by name, and all text is in Unicode's NFC form (other text is brought to it);
    - times are on the 0.1 s grid, 0.1 <= seconds <= 3600, and each event starts where the one before ends (times off
      the grid are rounded as `timing.timeline` says);
    - its reasoning is empty or is its `reasoning_text` (any other is kept, but summary and details are read from it).
    What the `layout` leaves out is not written: without reasoning, summary and details do not come back; without
    captions in the events, they come back from the reasoning.
    ValueError, naming the event, for anything ill-formed and for text that the tokenizer cannot represent.
    """
    check(storyline)
    script = _Writer(vocabulary)
    script.prompt(prompt(instruction, vocabulary, lead, num_listening))
    if layout.reasoning:
        script.reasoning(storyline.reasoning or reasoning_text(storyline))
    script.marker(vocabulary.end_think)
    slots: list[BridgeSlot] = []
    for number, (event, (start, end)) in enumerate(zip(storyline.events, timeline(storyline.events), strict=True), 1):
        script.marker(vocabulary.gen)
        if layout.captions:
            script.text(f"the caption of event {number}", event.caption, Role.CAPTION)
        script.marker(vocabulary.timestamp, Role.CAPTION)
        script.text(f"the duration of event {number}", str(round(end - start, 1)), Role.CAPTION)
        script.marker(vocabulary.end_timestamp, Role.CAPTION)
        if bridge:
            semantic = script.block(vocabulary.semantic_open, vocabulary.semantic_block)
            residual = script.block(vocabulary.residual_open, vocabulary.residual_block)
            slots.append(BridgeSlot(semantic=semantic, residual=residual))
        script.marker(vocabulary.end_gen)
    return script.finished(slots)


def write_answer(
    instruction: Instruction, answer: str, vocabulary: Vocabulary, num_listening: int = 0, reasoning: str = ""
) -> Script:
    """The exchange a planner learns to answer from: a question, about a recording if there is one, and its answer.

    With `reasoning` the planner first writes that, between the markers of thinking: what the recording holds, so that a
    question which names a sound is answered from words. The paper's answers have none. `read_answer` gives the answer
    back, in Unicode's NFC form. ValueError for an answer that is empty, has space around it, holds a special token by
    name or does not survive the tokenizer, for such reasoning, and as `question` raises it.
    """
    if not answer or answer != answer.strip():
        raise ValueError(f"an answer must be text without space around it; got {answer!r}")
    script = _Writer(vocabulary)
    script.prompt(question(instruction, vocabulary, num_listening))
    if reasoning:
        script.marker(vocabulary.think)
        script.text("the reasoning", reasoning, Role.HEARD)
        script.marker(vocabulary.end_think)
    script.text("the answer", answer, Role.ANSWER)
    return script.finished()


class _Writer:
    """Ids and roles, growing together."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.ids: list[int] = []
        self.roles: list[Role] = []
        self.listening = range(0)

    def prompt(self, ids: Sequence[int]) -> None:
        """Comes first. Texts hold no special tokens, so the listening tokens are the recording's, in one run."""
        self.ids.extend(ids)
        self.roles.extend([Role.PROMPT] * len(ids))
        if num_listening := ids.count(self.vocabulary.listening):
            first = ids.index(self.vocabulary.listening)
            self.listening = range(first, first + num_listening)

    def marker(self, token: int, role: Role = Role.MARKER) -> None:
        self.ids.append(token)
        self.roles.append(role)

    def reasoning(self, text: str) -> None:
        """The text in one piece, so that its ids are those of the whole; tokens with a digit of the count tell it."""
        text = unicodedata.normalize("NFC", text)
        self.ids.extend(_exact_ids("the reasoning", text, self.vocabulary))
        first, last = count_span(text) or (0, 0)
        for _, (start, end) in self.vocabulary.encode_with_spans(text):
            self.roles.append(Role.EVENT_COUNT if start < last and end > first else Role.CONTENT)

    def text(self, what: str, text: str, role: Role) -> None:
        ids = _exact_ids(what, text, self.vocabulary)
        self.ids.extend(ids)
        self.roles.extend([role] * len(ids))

    def block(self, opening: int, block: Sequence[int]) -> range:
        """The opening marker and the block; returns where the numbered tokens stand."""
        self.marker(opening)
        numbered = range(len(self.ids), len(self.ids) + len(block) - 1)
        self.ids.extend(block)
        self.roles.extend([Role.BRIDGE] * len(numbered) + [Role.MARKER])
        return numbered

    def finished(self, slots: Sequence[BridgeSlot] = ()) -> Script:
        self.marker(self.vocabulary.im_end)
        return Script(ids=tuple(self.ids), roles=tuple(self.roles), slots=tuple(slots), listening=self.listening)


def _plain_ids(what: str, text: str, vocabulary: Vocabulary) -> list[int]:
    """Ids of text that must hold no special token: it could pass for the planner's own."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not valid Unicode at character {error.start}; retype it") from error
    ids = vocabulary.encode(text)
    special = next((token for token in ids if not vocabulary.is_text(token)), None)
    if special is not None:
        raise ValueError(f"{what} holds the special token {vocabulary.name(special)}; spell it otherwise")
    return ids


def _exact_ids(what: str, text: str, vocabulary: Vocabulary) -> list[int]:
    """Ids of plain text that give the text back."""
    text = unicodedata.normalize("NFC", text)
    ids = _plain_ids(what, text, vocabulary)
    if vocabulary.decode(ids) != text:
        raise ValueError(
            f"{what} does not survive the tokenizer: {text!r} comes back as {vocabulary.decode(ids)!r}; "
            "reword it, or use a tokenizer that keeps every character"
        )
    return ids
