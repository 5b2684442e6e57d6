"""The planner: what it writes when a script is put into its mouth, and when it writes freely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from audiostory.model.planner import WritingRules, Written, following, reciting
from audiostory.parity.checks import Check, Checks, Subject, exact, relative
from audiostory.story import Vocabulary, script
from audiostory.story.timing import parse_duration
from audiostory.story.types import Reading

RELEASED_BRIDGE_SCORE, FORCED_ABOVE_BEST = 0.0, 10.0  # SPEC 4


def generate_scripted(subject: Subject) -> Checks:
    recorded, meta = subject.recording.data("generate_scripted"), subject.recording.meta["generate_scripted"]
    vocabulary, planner, bridge = subject.merged.vocabulary, subject.merged.planner, subject.merged.bridge
    yield exact("generate_scripted.prompt_ids", _row(vocabulary.encode(meta["prompt"])), recorded["prompt_ids"])
    yield exact("generate_scripted.script_ids", torch.tensor(vocabulary.encode(meta["script"])), recorded["script_ids"])
    prompt = recorded["prompt_ids"][0].tolist()
    written = recite(subject, prompt, recorded["script_ids"].tolist())
    yield exact("generate_scripted.generated_ids", torch.tensor(written.ids), recorded["generated_ids"])
    answer = recorded["generated_ids"].tolist()
    states = planner.states(_row([*prompt, *answer[:-1]]))[0]
    yield relative("generate_scripted.hidden_last", states[len(prompt) :], recorded["hidden_last"])
    yield relative("generate_scripted.hidden_semantic", written.bridge.semantic, recorded["hidden_semantic"])
    yield relative("generate_scripted.hidden_residual", written.bridge.residual, recorded["hidden_residual"])
    semantic = bridge.semantic_projector(written.bridge.semantic)
    yield relative("generate_scripted.proj_semantic", semantic, recorded["proj_semantic"])
    residual = bridge.residual_projector(written.bridge.residual)
    yield relative("generate_scripted.proj_residual", residual, recorded["proj_residual"])
    yield relative("generate_scripted.fused", bridge(written.bridge).fused, recorded["fused"])
    logits = planner.logits(states[len(prompt) - 1 :])
    yield relative("generate_scripted.raw_logits", logits, recorded["raw_logits"])
    yield from _scores("generate_scripted", subject, logits, prompt, answer, recorded)
    reading = script.read(written.ids, vocabulary)
    recorded_captions = [content_of(caption) for caption in meta["captions"]]
    yield exact(
        "generate_scripted.captions",
        [event.caption for event in reading.storyline.events],
        [content for content, _ in recorded_captions],
    )
    known_seconds = [seconds for _, seconds in recorded_captions if seconds is not None]
    ours_seconds = [
        event.seconds
        for event, (_, seconds) in zip(reading.storyline.events, recorded_captions, strict=False)
        if seconds is not None  # what is no duration is estimated by ours, see meta.extract_content_and_duration
    ]
    yield exact("generate_scripted.seconds", ours_seconds, known_seconds)
    yield exact("generate_scripted.reasoning", reading.storyline.reasoning, meta["reasoning"])
    known = following(vocabulary)
    forced = [place for place in range(1, len(written.ids)) if written.ids[place - 1] in known]
    yield exact("generate_scripted.forced_by_bridge_positions", forced, meta["forced_by_bridge_positions"])


def generate_free(subject: Subject) -> Checks:
    recorded, planner = subject.recording.data("generate_free"), subject.merged.planner
    prompt, answer = recorded["prompt_ids"][0].tolist(), recorded["generated_ids"].tolist()
    vocabulary = subject.merged.vocabulary
    longest = max(len(vocabulary.semantic_block), len(vocabulary.residual_block))
    written = planner.write(
        prompt,
        vocabulary,
        max_new_tokens=len(answer) + longest,  # blocks come whole: one may reach past the recorded end
        repetition_penalty=subject.merged.settings.repetition_penalty,
        free_bridge_score=RELEASED_BRIDGE_SCORE,
    )
    yield exact("generate_free.generated_ids", list(written.ids[: len(answer)]), answer)
    text = subject.recording.meta["generate_free"]["text"]
    yield exact("generate_free.text", vocabulary.decode(answer), text)
    states = planner.states(_row([*prompt, *answer[:-1]]))[0]
    yield from _scores("generate_free", subject, planner.logits(states[len(prompt) - 1 :]), prompt, answer, recorded)
    meta = subject.recording.meta["generate_free"]
    yield exact("generate_free.eos_hit", any(token in vocabulary.stop_ids for token in answer), meta["eos_hit"])
    yield _parsed(meta["result"], script.read(answer, vocabulary))


def recite(subject: Subject, prompt: Sequence[int], ids: Sequence[int]) -> Written:
    """The planner writing given ids: it is asked for each outside a bridge block; the blocks it must know itself."""
    vocabulary = subject.merged.vocabulary
    return subject.merged.planner.write(
        prompt,
        vocabulary,
        max_new_tokens=len(ids),
        repetition_penalty=subject.merged.settings.repetition_penalty,
        choose=reciting(ids, vocabulary),
    )


def _scores(
    name: str,
    subject: Subject,
    logits: Float[Tensor, "L V"],
    prompt: Sequence[int],
    answer: Sequence[int],
    recorded: dict[str, Tensor],
) -> Checks:
    vocabulary = subject.merged.vocabulary
    rules = WritingRules(
        vocabulary,
        subject.merged.settings.repetition_penalty,
        logits.shape[1],
        logits.device,
        free_bridge_score=RELEASED_BRIDGE_SCORE,
    )
    rules.heed(prompt)
    penalised, scores = [], []
    for before, token, row in zip([-1, *answer], answer, logits, strict=False):
        penalised.append(rules.penalised(row))
        scores.append(_forced(rules, vocabulary, before, row) if before in rules.following else rules.scores(row))
        rules.heed([token])
    yield relative(f"{name}.scores_after_builtin", torch.stack(penalised), recorded["scores_after_builtin"])
    yield relative(f"{name}.scores_after_bridge", torch.stack(scores), recorded["scores_after_bridge"])


def _forced(rules: WritingRules, vocabulary: Vocabulary, before: int, logits: Float[Tensor, " V"]) -> Tensor:
    """Inside a block ours asks for no scores, as what follows is known. The release lifts that id above all others,
    after the processor of semantic tokens and before, or after, that of residual tokens has zeroed its own (SPEC 4)."""
    scores = rules.penalised(logits)
    successor = rules.following[before][0]
    inside_semantic = before in (vocabulary.semantic_open, *vocabulary.semantic_ids)
    if not inside_semantic:
        scores[list(vocabulary.semantic_block)] = RELEASED_BRIDGE_SCORE
    scores[successor] = scores.max() + FORCED_ABOVE_BEST
    if inside_semantic:
        scores[list(vocabulary.residual_block)] = RELEASED_BRIDGE_SCORE
    return scores


def _parsed(recorded: list[Any], reading: Reading) -> Check:
    """What became of a free answer: [shapes, shapes, captions, reasoning], or nothing at all at the first fault."""
    events = [event.caption for event in reading.storyline.events]
    if recorded[3] is not None:
        theirs = ([content_of(caption)[0] for caption in recorded[2]], recorded[3])
        return exact("generate_free.parse", (events, reading.storyline.reasoning), theirs)
    said = "; ".join(problem.message for problem in reading.problems)
    kept = f"the reasoning and {len(events)} complete events"
    note = f"the release gives nothing at all; ours keeps {kept}, and says: {said}"
    return exact("generate_free.parse", bool(said), True, note)


def content_of(caption: str) -> tuple[str, float | None]:
    """A recorded caption with its markup, as the words outside the first pair of markers, and the seconds inside it."""
    before, _, rest = caption.partition("<timestamp>")
    inside, _, after = rest.partition("</timestamp>")
    return (before + after).strip(), parse_duration(inside)


def _row(ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)])
