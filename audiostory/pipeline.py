"""Start here: one instruction becomes a long story in sound.

    pipeline = AudioStoryPipeline.from_pretrained()          # the bundled audiostory-mini
    told = pipeline("a dog barks twice, then rain comes down", total_seconds=12.0)
    told.storyline.events, told.story.samples                # what is heard and when; the sound [channels, samples]
    for told in pipeline.tell_many(instructions, seeds=seeds): ...     # many stories, each as if told alone
    for part in pipeline.stream("a dog, then rain"): play(part.sound)  # one story, heard while it is planned

    pipeline.describe("field.wav", "what is heard first?")   # of a model that listens: an answer in words
    told = pipeline.continue_story("field.wav", "then the same sounds backwards", total_seconds=12.0)
    told.after(sound.read("field.wav"))                      # both, cross-faded

The walk, in order: a recording is heard, if there is one; the planner writes a script, the script is read and brought
to the wanted length (`plan`); the bridge turns each event's tokens into a condition, the flow solves the DiT for all
clips, the codec decodes them, and the clips are joined (`render`). A plan can also be made from a storyline that
somebody else wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from audiostory import timeline
from audiostory.model import flow
from audiostory.model.batching import batches_of_like_length, call_overhead
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT, denoise
from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.model.listener import Audio, AudioEncoder, Listener, ListenerProjector, Recording
from audiostory.model.planner import Answer, Planner, Written, not_finite
from audiostory.sound import Waveform
from audiostory.story import Event, Instruction, Problem, ProblemKind, Storyline, Vocabulary, script
from audiostory.story.prompts import parse_reasoning
from audiostory.story_audio import Rendering, StoryAudio, assemble
from audiostory.streaming import Joiner, Part
from audiostory.timeline import Clip
from audiostory.weights import huggingface, ours, released
from audiostory.weights.ours import Settings

MINI = Path(__file__).parent / "assets" / "audiostory-mini"
SHORTEST_STORY_SECONDS = 1.0
SHORTEST_CLIP_SECONDS = 1.0  # shorter ones are rendered this long and cut: no network is trained on less
PART_NOISE_STRIDE = 10_000  # noise indices between the parts of a long event; no story has as many events
NO_MEMORY = (
    "memory does not hold the story, not even one clip at a time; lower max_decode_frames (64 take the least) or "
    "max_new_tokens, or compute in half precision or with weights of 8 bits"
)
QUESTION = "What can be heard?"
TOKENS_OF_WORDS = 256  # kept for an instruction beside the longest recording

_T = TypeVar("_T")
_R = TypeVar("_R")
OnLatents = Callable[[Sequence[Float[Tensor, "_ Z"]]], object]


class StoryError(ValueError):
    """The planner wrote nothing that could be rendered."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be heard: events whose durations add up, and for each of them the planner's bridge tokens."""

    instruction: Instruction
    storyline: Storyline
    bridge_tokens: BridgeTokens
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An instruction that was checked: what the planner is given of it, and what is to be heard before."""

    instruction: Instruction
    prompt: list[int]
    recording: Recording


@dataclass(frozen=True, kw_only=True)
class _Take:
    """A clip that is to be rendered: what the DiT is told of it, and the noise it starts from."""

    clip: Clip
    tokens: Float[Tensor, "M C"]
    seconds: float
    noise: Float[Tensor, "T Z"]


class AudioStoryPipeline(DiffusionPipeline):
    """Planner, bridge, DiT and codec, with the planner's vocabulary and the model's settings; and, of a model that
    listens, an audio encoder and the projector that makes the planner's tokens of what it hears.

    As any diffusers pipeline it has `.to(device, dtype)`, `enable_model_cpu_offload()`, `set_progress_bar_config()` and
    `push_to_hub()`. Reading and writing folders is our own (`weights.ours`): diffusers' would import the classes that
    the folder names. The text encoder is not here, since the bridge holds all that guidance needs of it.
    """

    planner: Planner
    vocabulary: Vocabulary
    bridge: Bridge
    dit: VelocityDiT
    codec: Codec
    audio_encoder: AudioEncoder | None
    listener_projector: ListenerProjector | None
    model_cpu_offload_seq = "audio_encoder->listener_projector->planner->bridge->dit->codec"
    _optional_components = list(ours.LISTENING)  # noqa: RUF012  # diffusers' own name
    max_batch_frames = 4000
    """The bound on memory: latent frames, padding included, that are denoised at once (twice as many with guidance)."""
    max_decode_frames: int | None = None
    """Latent frames that the codec decodes at once: None for a whole clip, however long; 64 take the least memory."""
    max_batch_scripts = 8
    """How many answers the planner writes at once; each holds its keys and values in memory."""

    def __init__(
        self,
        planner: Planner,
        vocabulary: Vocabulary,
        bridge: Bridge,
        dit: VelocityDiT,
        codec: Codec,
        settings: Settings = Settings(),  # noqa: B008  # frozen
        audio_encoder: AudioEncoder | None = None,
        listener_projector: ListenerProjector | None = None,
    ):
        super().__init__()
        self.register_modules(planner=planner, vocabulary=vocabulary, bridge=bridge, dit=dit, codec=codec)
        self.register_modules(audio_encoder=audio_encoder, listener_projector=listener_projector)
        self.settings = settings
        ours.check_fit(planner, vocabulary, bridge, dit, codec, audio_encoder, listener_projector)

    @classmethod
    def from_pretrained(cls, folder: str | Path = MINI, dtype: torch.dtype = torch.float32) -> AudioStoryPipeline:
        """Reads a folder that `save_pretrained` wrote, onto the CPU, whatever precision it is stored in.

        Safetensors only. ValueError, naming the file, for anything missing, damaged or of another class.
        """
        settings = ours.read_index(folder)
        names = [*ours.TELLING, *(name for name in ours.LISTENING if name in ours.read_names(folder))]
        parts = {name: ours.read_component(folder, name, dtype) for name in names}
        bridge = parts["bridge"]
        vocabulary = ours.read_vocabulary(folder, num_semantic=bridge.num_semantic, num_residual=bridge.num_residual)
        return cls(vocabulary=vocabulary, settings=settings, **parts)

    @classmethod
    def from_released(
        cls,
        model: str | Path,
        tangoflux: str | Path | None = None,
        *,
        audio_encoder: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        **elsewhere: str | Path | None,
    ) -> AudioStoryPipeline:
        """Reads the released checkpoint (docs/WEIGHTS.md), onto the CPU, with LoRA merged.

        It listens with the Whisper whose folder is given as `audio_encoder`; the checkpoint holds the projector alone.
        `tangoflux` is Flux_detokenizer beside `model` unless given. `elsewhere` may say where the `language_model`, the
        `text_encoder`, the `added_tokens` or an `llm_config` are; otherwise they are looked for under the names in the
        checkpoint. The text encoder is needed for a moment only. ValueError for anything that is not as it should be.
        """
        read = released.read(released.Folders.of(model, tangoflux, **elsewhere), dtype)
        return cls(
            read.planner,
            read.vocabulary,
            read.bridge,
            read.dit,
            read.codec,
            read.settings,
            None if audio_encoder is None else huggingface.read_audio_encoder(audio_encoder, dtype),
            read.listener_projector,
        )

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True, **unsupported: Any) -> None:
        """Writes the folder in the components' present precision; `from_pretrained(..., dtype=torch.float16)` before
        halves it, all but the DiT's duration embedder."""
        options = {name: value for name, value in unsupported.items() if value}
        if options or not safe_serialization:
            raise ValueError(f"only plain safetensors are written, got {options or 'safe_serialization=False'}")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {name: getattr(self, name) for name in (*ours.TELLING, *ours.LISTENING)}
        parts = {name: part for name, part in parts.items() if part is not None}
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        ours.write_vocabulary(folder, self.vocabulary)
        ours.write_index(folder, parts, self.settings)

    def compile(self, **options: Any) -> None:
        """From here on the planner's steps and the DiT's blocks are compiled: the same stories, but for rounding.

        For GPUs and many stories, where launching small kernels takes longer than their work; the first story waits for
        the compiler, minutes with a large model, and a CPU needs g++ for it. The options are torch.compile's; without
        any, a GPU launches the planner's steps as CUDA graphs. Call it where the model is to stay: ValueError for one
        that is offloaded.
        """
        if hasattr(self.planner, "_hf_hook"):
            raise ValueError("a model that is offloaded moves between devices and cannot be compiled; load it whole")
        on_gpu = self.device.type == "cuda"
        self.planner.compile_steps(**(options or ({"mode": "reduce-overhead"} if on_gpu else {})))
        for block in self.dit.blocks:
            block.compile(dynamic=True, **options)  # clips have many lengths

    @property
    def max_clip_seconds(self) -> float:
        """What the DiT can render in one go; longer events are made of several clips."""
        fixed = self.dit.fixed_frames
        return self.dit.max_seconds if fixed is None else min(self.dit.max_seconds, fixed / self.dit.frame_rate)

    @property
    def max_heard_seconds(self) -> float:
        """How long a recording may be: one that leaves the planner half of its context to write in. 0 for a model that
        cannot listen. What is much longer than the recordings it learnt from is heard badly all the same."""
        return self._listener.max_seconds

    @property
    def _listener(self) -> Listener:
        room = self.planner.qwen.config.max_position_embeddings // 2 - TOKENS_OF_WORDS
        return Listener(self.audio_encoder, self.listener_projector, room=room)

    @torch.no_grad()
    def __call__(
        self,
        instruction: str | Instruction,
        *,
        audio: Audio | None = None,
        total_seconds: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        crossfade_seconds: float | None = None,
        max_new_tokens: int = 1600,
        as_released: bool = False,
        progress: bool = True,
    ) -> StoryAudio:
        """`plan` and `render` in one go; what is None is the model's setting. Bad values fail before any work is done.

        Without `total_seconds` the planner decides how long the story is. Raises ValueError for what the caller got
        wrong, and StoryError, which is one, when the planner writes no complete event.
        """
        rendering = self._rendering(seed, steps, guidance, solver, crossfade_seconds, as_released)
        instruction = self._checked(instruction, total_seconds)
        plan = self.plan(
            instruction, audio=audio, max_new_tokens=max_new_tokens, as_written=as_released, progress=progress
        )
        return self._render(plan, rendering, progress)

    def tell_many(
        self,
        instructions: Sequence[str | Instruction],
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        crossfade_seconds: float | None = None,
        max_new_tokens: int = 1600,
        progress: bool = True,
    ) -> Iterator[StoryAudio | StoryError]:
        """The stories of many instructions, in order, each with its own seed, as soon as they are told.

        They are planned and denoised together, `max_batch_scripts` at a time, and each is the story that telling it
        alone gives, but for rounding. In float32 the same ids are written, unless two scores differ by less than that,
        and latents differ by less than 1e-5; so do samples, but behind the codec's spectrogram front: Griffin-Lim makes
        some 1e-3 of it. A story that cannot be told is a StoryError in its place and stops no other, whether its
        instruction is bad, the planner writes no complete event or memory does not hold it; it has a cause unless the
        planner is to blame. ValueError, at once, for choices that cannot be meant, and for a model that is damaged.
        """
        if len(seeds) != len(instructions):
            raise ValueError(f"there are {len(instructions)} instructions and {len(seeds)} seeds; give one for each")
        self._check_room([], max_new_tokens)
        renderings = [self._rendering(seed, steps, guidance, solver, crossfade_seconds, False) for seed in seeds]
        return self._tell_many(instructions, renderings, max_new_tokens, progress)

    @torch.no_grad()
    def _tell_many(
        self,
        instructions: Sequence[str | Instruction],
        renderings: Sequence[Rendering],
        max_new_tokens: int,
        progress: bool,
    ) -> Iterator[StoryAudio | StoryError]:
        for some in self._groups(len(instructions)):
            yield from self._tell_some(instructions[some], renderings[some], max_new_tokens, progress)
            self.maybe_free_model_hooks()

    def _tell_some(
        self,
        instructions: Sequence[str | Instruction],
        renderings: Sequence[Rendering],
        max_new_tokens: int,
        progress: bool,
    ) -> Iterator[StoryAudio | StoryError]:
        """Together, or where memory does not hold them, one by one."""
        try:
            solved, full = self._solve_many(instructions, renderings, max_new_tokens, progress), None
        except torch.OutOfMemoryError as error:
            solved, full = [], error.with_traceback(None)  # whose frames keep what filled the memory
        if full is not None and len(instructions) == 1:
            yield _in_its_place(full, NO_MEMORY)
        elif full is not None:
            for instruction, rendering in zip(instructions, renderings, strict=True):
                yield from self._tell_some([instruction], [rendering], max_new_tokens, progress)
        for story in solved:
            try:
                told = story if isinstance(story, StoryError) else story()
            except ValueError as error:  # it is not finite in half precision; others may be
                told = _in_its_place(error)
            except torch.OutOfMemoryError as error:
                told = _in_its_place(error.with_traceback(None), NO_MEMORY)
            yield told

    def _solve_many(
        self,
        instructions: Sequence[str | Instruction],
        renderings: Sequence[Rendering],
        max_new_tokens: int,
        progress: bool,
    ) -> list[StoryError | Callable[[], StoryAudio]]:
        """What is left to do for each story when all latents are there, or why there is none."""
        plans = self._plan_some(instructions, max_new_tokens, progress)
        both = list(zip(plans, renderings, strict=True))
        stories = [self._takes(plan, rendering) if isinstance(plan, Plan) else [] for plan, rendering in both]
        takes = [take for story in stories for take in story]
        solved = iter(self._solve(takes, renderings[0], progress))
        return [
            partial(self._told, plan, rendering, story, list(islice(solved, len(story))), progress)
            if isinstance(plan, Plan)
            else plan
            for (plan, rendering), story in zip(both, stories, strict=True)
        ]

    def stream(
        self,
        instruction: str | Instruction,
        *,
        audio: Audio | None = None,
        total_seconds: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        crossfade_seconds: float | None = None,
        max_new_tokens: int = 1600,
        wait_for_plan: bool = False,
    ) -> Iterator[Part]:
        """The story in parts, one for each event, as soon as its bridge tokens are written. The choices are those of
        telling a story, and are checked at once.

        One after the other, the parts are the story told at once, but for rounding, as in `tell_many`, whenever the
        planner writes the events with the durations that its reasoning has planned. For all durations must be known
        before the first event is rendered, since together they are brought to the wanted length; so those of the
        reasoning are taken. Should the planner then write an event otherwise, it keeps its planned time; an event too
        many is not heard, and after one too few the last one fades out. Then the stream is another telling of the same
        plan, and a part's `problems` say so.

        With `wait_for_plan`, and where the reasoning plans no durations (text of another form, a model without
        reasoning), nothing is rendered before all is written, and the parts are the story told at once in every case.
        """
        if hasattr(self.planner, "_hf_hook"):
            raise ValueError("a model that is offloaded cannot stream, as it plans and renders at once; load it whole")
        rendering = self._rendering(seed, steps, guidance, solver, crossfade_seconds, False)
        asked = self._asked(self._checked(instruction, total_seconds), audio)
        self._check_room([asked.prompt], max_new_tokens)
        return self._stream(asked, rendering, max_new_tokens, wait_for_plan)

    @torch.no_grad()
    def _stream(self, asked: _Asked, rendering: Rendering, max_new_tokens: int, wait_for_plan: bool) -> Iterator[Part]:
        total, layout = asked.instruction.total_seconds, self.settings.script
        answer, joiner = Answer(), Joiner()
        planned: Storyline | None = None  # until the reasoning ends; without events where it plans none
        storyline, problems, num_told = Storyline(summary="", events=()), [], 0
        heard = self._listener.hear(asked.recording)
        for piece in self.planner.writing(
            [asked.prompt],
            self.vocabulary,
            heard=[heard],
            max_new_tokens=max_new_tokens,
            repetition_penalty=self.settings.repetition_penalty,
        ):
            answer.add(piece)
            is_marker = not self.vocabulary.is_text(piece.ids[0])  # nothing else ends a reasoning or an event
            if planned is None and is_marker and not wait_for_plan:
                if not script.reasoning_has_ended(answer.ids, self.vocabulary):
                    continue
                planned = self._planned(answer.ids)
                storyline, problems = self._reconciled(planned, total)
            if planned is None or not is_marker or num_told == len(planned.events):
                continue
            read = script.read(answer.ids, self.vocabulary, total_seconds=total, layout=layout).storyline.events
            while num_told < min(len(read), len(planned.events)):
                wanted, event = planned.events[num_told], read[num_told]
                if event.seconds != wanted.seconds:
                    problems.append(_otherwise(num_told + 1, event.seconds, wanted.seconds))
                bridge = answer.written(self.vocabulary, self._no_states).bridge
                yield self._part(storyline, num_told, event, bridge, rendering, joiner, problems)
                num_told, problems = num_told + 1, []
        written = answer.written(self.vocabulary, self._no_states)
        plan = self.read_plan(written, asked.instruction)
        num_written = len(plan.storyline.events)
        if not storyline.events:
            for number, event in enumerate(plan.storyline.events):
                problems = plan.problems if number == 0 else ()
                yield self._part(plan.storyline, number, event, written.bridge, rendering, joiner, problems)
        elif num_written != len(storyline.events):
            message = f"the reasoning plans {len(storyline.events)} events, and {num_written} were written completely"
            problem = Problem(kind=ProblemKind.EVENT_COUNT, event=None, message=message)
            yield Part(event=storyline.events[num_told - 1], sound=joiner.end(), problems=(problem,))

    @property
    def _no_states(self) -> Float[Tensor, "0 H"]:
        return self.planner.qwen.lm_head.weight.new_empty(0, self.planner.qwen.config.hidden_size)

    def _planned(self, ids: Sequence[int]) -> Storyline:
        """The events as the reasoning has them; none, unless it gives each a duration and counts them right."""
        if not self.settings.script.reasoning:
            return Storyline(summary="", events=())
        plan = parse_reasoning(script.read(ids, self.vocabulary).storyline.reasoning)
        seconds = [event.seconds for event in plan.events if event.seconds is not None]
        if not len(seconds) == len(plan.events) == plan.num_events:
            return Storyline(summary="", events=())
        starts = [sum(seconds[:number]) for number in range(len(seconds))]
        events = [
            Event(caption=event.caption, seconds=length, start=start)
            for event, length, start in zip(plan.events, seconds, starts, strict=True)
        ]
        return Storyline(summary=plan.summary, events=tuple(events))

    def _part(
        self,
        storyline: Storyline,
        number: int,
        written: Event,
        bridge: BridgeTokens,
        rendering: Rendering,
        joiner: Joiner,
        problems: Sequence[Problem],
    ) -> Part:
        """The event at a place of a storyline, which gives it its time."""
        clips = [clip for clip in self._clips(storyline, rendering) if clip.event == number]
        own = slice(number, number + 1)
        (tokens,) = self._fuse(BridgeTokens(semantic=bridge.semantic[own], residual=bridge.residual[own]))
        latents = self._solve([self._take(clip, tokens, rendering) for clip in clips], rendering, progress=False)
        waveforms = self._decode(clips, latents, rendering, progress=False)
        rate = self.codec.sample_rate
        clip = timeline.join(waveforms, [timeline.place(clip.start, rate) for clip in clips])
        sound = joiner.add(clip, timeline.span(clips[0].start, clips[-1].end, rate))
        timed = storyline.events[number]
        event = replace(written, seconds=timed.seconds, start=timed.start)
        return Part(event=event, sound=sound, problems=tuple(problems))

    def continue_story(self, audio: Audio, instruction: str | Instruction, **choices: Any) -> StoryAudio:
        """What follows a recording; `told.after(opening)` is both as one sound. The choices are those of telling a
        story: of what follows, `total_seconds` is the length. ValueError as `plan` raises it for the recording."""
        return self(instruction, audio=audio, **choices)

    @overload
    def describe(
        self, audio: Audio, question: str = QUESTION, *, max_new_tokens: int = 400, progress: bool = True
    ) -> str: ...

    @overload
    def describe(
        self, audio: Audio, question: list[str], *, max_new_tokens: int = 400, progress: bool = True
    ) -> list[str]: ...

    @torch.no_grad()
    def describe(
        self,
        audio: Audio,
        question: str | list[str] = QUESTION,
        *,
        max_new_tokens: int = 400,
        progress: bool = True,
    ) -> str | list[str]:
        """What the planner answers to a question about a recording, or to each of several, which it hears once and
        answers as if each were the only one. ValueError as `plan` raises it for any of them."""
        questions = [question] if isinstance(question, str) else question
        recording = self._listener.open(audio)
        prompts = [
            script.question(Instruction(text=text.strip()), self.vocabulary, recording.num_tokens) for text in questions
        ]
        self._check_room(prompts, max_new_tokens)
        heard = self._listener.hear(recording)
        written = self._write(prompts, [heard] * len(prompts), max_new_tokens, "answering", progress)
        self.maybe_free_model_hooks()
        answers = [script.read_answer(one.ids, self.vocabulary) for one in written]
        return answers[0] if isinstance(question, str) else answers

    @torch.no_grad()
    def plan(
        self,
        instruction: str | Instruction,
        *,
        audio: Audio | None = None,
        max_new_tokens: int = 1600,
        as_written: bool = False,
        progress: bool = True,
    ) -> Plan:
        """The planner's storyline, with its bridge tokens and the problems met on the way.

        It lasts what was asked, or with `as_written` what the planner wrote, whatever was asked. With a recording,
        `audio` or else the instruction's own, it is the plan of what follows. ValueError for a recording that cannot be
        read or lasts longer than `max_heard_seconds`, and for a model that cannot listen.
        """
        asked = self._asked(instruction, audio)
        self._check_room([asked.prompt], max_new_tokens)
        heard = self._listener.hear(asked.recording)
        (written,) = self._write([asked.prompt], [heard], max_new_tokens, "planning", progress)
        plan = self.read_plan(
            written, replace(asked.instruction, total_seconds=None) if as_written else asked.instruction
        )
        return replace(plan, instruction=asked.instruction)

    def plan_many(
        self, instructions: Sequence[str | Instruction], *, max_new_tokens: int = 1600, progress: bool = True
    ) -> Iterator[Plan | StoryError]:
        """The plans of many instructions, in order, `max_batch_scripts` written at a time; `tell_many` has what holds
        of each. ValueError at once for choices that cannot be meant."""
        self._check_room([], max_new_tokens)
        return self._plans(instructions, max_new_tokens, progress)

    @torch.no_grad()
    def _plans(
        self, instructions: Sequence[str | Instruction], max_new_tokens: int, progress: bool
    ) -> Iterator[Plan | StoryError]:
        for some in self._groups(len(instructions)):
            yield from self._plan_some(instructions[some], max_new_tokens, progress)
            self.maybe_free_model_hooks()

    def _plan_some(
        self, instructions: Sequence[str | Instruction], max_new_tokens: int, progress: bool
    ) -> list[Plan | StoryError]:
        """A plan for each instruction, or why there is none."""
        found: list[Plan | StoryError | None] = [None] * len(instructions)
        asked: dict[int, _Asked] = {}
        for number, instruction in enumerate(instructions):
            try:
                asked[number] = self._asked(instruction)
                self._check_room([asked[number].prompt], max_new_tokens)
            except (ValueError, OSError) as error:
                asked.pop(number, None)
                found[number] = _in_its_place(error)
        heard = [self._listener.hear(one.recording) for one in asked.values()]
        written = self._write([one.prompt for one in asked.values()], heard, max_new_tokens, "planning", progress)
        for (number, one), answer in zip(asked.items(), written, strict=True):
            try:
                found[number] = self.read_plan(answer, one.instruction)
            except StoryError as error:
                found[number] = error
        return [plan for plan in found if plan is not None]

    def check(self, instruction: str | Instruction) -> None:
        """ValueError or OSError for an instruction that this model cannot be asked, as far as that shows before any
        work."""
        self._check_room([self._asked(instruction).prompt], max_new_tokens=1)

    def _asked(self, instruction: str | Instruction, audio: Audio | None = None) -> _Asked:
        instruction = self._checked(instruction)
        recording = self._listener.open(instruction.audio if audio is None else audio)
        prompt = script.prompt(instruction, self.vocabulary, self.settings.lead_in, recording.num_tokens)
        return _Asked(instruction=instruction, prompt=prompt, recording=recording)

    def _check_room(self, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
        """Before anything is heard."""
        context = self.planner.qwen.config.max_position_embeddings
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}; 1600 is usual")
        if prompts and 2 * (longest := max(map(len, prompts))) > context:
            raise ValueError(f"the instruction takes {longest} tokens, the planner holds {context}; shorten it")

    def _write(
        self,
        prompts: Sequence[list[int]],
        heard: Sequence[Float[Tensor, "_ H"] | None],
        max_new_tokens: int,
        what: str,
        progress: bool,
    ) -> list[Written]:
        """The planner's answers, `max_batch_scripts` at a time, or as many as memory holds."""
        asked, written = list(zip(prompts, heard, strict=True)), []
        with self._bar(what, None, " tokens", progress) as bar:

            def write(some: list[tuple[list[int], Float[Tensor, "_ H"] | None]]) -> list[Written]:
                return apply_forward_hook(Planner.write_many)(  # moves an offloaded planner to its device first
                    self.planner,
                    [prompt for prompt, _ in some],
                    self.vocabulary,
                    heard=[tokens for _, tokens in some],
                    max_new_tokens=max_new_tokens,
                    repetition_penalty=self.settings.repetition_penalty,
                    on_tokens=lambda ids: bar.update(len(ids)),
                )

            for some in self._groups(len(asked)):
                written += _in_halves(write, asked[some])
        return written

    def _groups(self, num: int) -> Iterator[slice]:
        """Of so many scripts, those that the planner may write at once."""
        return (slice(start, start + self.max_batch_scripts) for start in range(0, num, self.max_batch_scripts))

    def read_plan(self, written: Written, instruction: Instruction) -> Plan:
        """What the planner wrote as a plan that lasts `instruction.total_seconds`, or without one as long as it says.

        StoryError when it holds no complete event.
        """
        total, layout = instruction.total_seconds, self.settings.script
        reading = script.read(written.ids, self.vocabulary, total_seconds=total, layout=layout)
        problems = list(reading.problems)
        if not written.finished:
            message = f"the script was stopped after {len(written.ids)} tokens, before its end"
            problems.insert(0, Problem(kind=ProblemKind.BROKEN_OFF, event=None, message=message))
        if not reading.storyline.events:
            raise StoryError(_no_events(problems))
        storyline, found = self._reconciled(reading.storyline, instruction.total_seconds)
        return Plan(
            instruction=instruction,
            storyline=storyline,
            bridge_tokens=written.bridge,
            problems=(*problems, *found),
        )

    @torch.no_grad()
    def plan_from_storyline(
        self,
        storyline: Storyline,
        instruction: str | Instruction | None = None,
        audio: Audio | None = None,
    ) -> Plan:
        """The plan of a storyline that is given, as if the planner had written it: an oracle to measure the planner by.

        The instruction stands in the planner's prompt, with its recording as in `plan`; without one the summary takes
        its place. ValueError for a storyline that `script.write` cannot write.
        """
        storyline, problems = self._reconciled(storyline, None)
        if not isinstance(instruction, Instruction):
            instruction = Instruction(
                text=instruction or storyline.summary, total_seconds=round(storyline.total_seconds, 3)
            )
        instruction = self._checked(instruction)
        recording = self._listener.open(instruction.audio if audio is None else audio)
        written = script.write(
            instruction,
            storyline,
            self.vocabulary,
            lead=self.settings.lead_in,
            num_listening=recording.num_tokens,
            layout=self.settings.script,
        )
        heard = self._listener.hear(recording)
        states = apply_forward_hook(_states)(self.planner, written.ids, self.vocabulary, heard)  # [L H]
        tokens = BridgeTokens(
            semantic=states[torch.tensor([list(slot.semantic) for slot in written.slots])],
            residual=states[torch.tensor([list(slot.residual) for slot in written.slots])],
        )
        return Plan(instruction=instruction, storyline=storyline, bridge_tokens=tokens, problems=tuple(problems))

    @torch.no_grad()
    def render(
        self,
        plan: Plan,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        crossfade_seconds: float | None = None,
        as_released: bool = False,
        on_latents: OnLatents | None = None,
        progress: bool = True,
    ) -> StoryAudio:
        """A plan in sound. The same (plan, seed) gives the same story; one event's sound does not depend on the others'
        noise. `solver` and `as_released`: see Rendering. `on_latents` is given those of each clip before they are
        decoded."""
        rendering = self._rendering(seed, steps, guidance, solver, crossfade_seconds, as_released)
        return self._render(plan, rendering, progress, on_latents)

    def _render(
        self, plan: Plan, rendering: Rendering, progress: bool, on_latents: OnLatents | None = None
    ) -> StoryAudio:
        takes = self._takes(plan, rendering)
        latents = self._solve(takes, rendering, progress)
        if on_latents is not None:
            on_latents(latents)
        told = self._told(plan, rendering, takes, latents, progress)
        self.maybe_free_model_hooks()
        return told

    def _takes(self, plan: Plan, rendering: Rendering) -> list[_Take]:
        fused = self._fuse(plan.bridge_tokens)
        return [self._take(clip, fused[clip.event], rendering) for clip in self._clips(plan.storyline, rendering)]

    def _clips(self, storyline: Storyline, rendering: Rendering) -> tuple[Clip, ...]:
        return timeline.cut(
            [event.seconds for event in storyline.events],
            max_clip_seconds=math.inf if rendering.as_released else self.max_clip_seconds,
            crossfade_seconds=rendering.crossfade_seconds,
            whole_fades=rendering.as_released,
        )

    def _take(self, clip: Clip, tokens: Float[Tensor, "M C"], rendering: Rendering) -> _Take:
        shortest = 0.0 if rendering.as_released else SHORTEST_CLIP_SECONDS
        seed, channels = 0 if rendering.as_released else rendering.seed, self.dit.config["in_channels"]
        seconds = max(clip.seconds + clip.fade_seconds, shortest)
        frames = self.dit.num_frames(min(seconds, self.dit.max_seconds))
        noise = flow.clip_noise(seed, _noise_index(clip), frames, channels, rendering.as_released)
        return _Take(clip=clip, tokens=tokens, seconds=seconds, noise=noise)

    def _told(
        self,
        plan: Plan,
        rendering: Rendering,
        takes: Sequence[_Take],
        latents: Sequence[Float[Tensor, "_ Z"]],
        progress: bool,
    ) -> StoryAudio:
        clips = [take.clip for take in takes]
        waveforms = self._decode(clips, latents, rendering, progress)
        return assemble(plan.storyline, rendering, clips, waveforms, plan.problems)

    def _fuse(self, tokens: BridgeTokens) -> Float[Tensor, "E M C"]:
        where: dict[str, Any] = {"device": self._execution_device, "dtype": self.bridge.dtype}
        return self.bridge(
            BridgeTokens(semantic=tokens.semantic.to(**where), residual=tokens.residual.to(**where))
        ).fused

    def _solve(self, takes: Sequence[_Take], rendering: Rendering, progress: bool) -> list[Float[Tensor, "_ Z"]]:
        """The latents of clips, of one story or of many, denoised as many at a time as `max_batch_frames` holds and
        pays (`batches_of_like_length`); fewer where memory does not hold them."""
        latents: dict[int, Tensor] = {}
        batches = batches_of_like_length(
            [len(take.noise) for take in takes],
            most=self.max_batch_frames,
            overhead=call_overhead(self._execution_device, self.dit.dtype),
        )
        with self._bar("denoising", rendering.steps * len(batches), " steps", progress) as bar:
            for numbers in batches:
                some = [takes[number] for number in numbers]
                solved = _in_halves(lambda some: self._solve_batch(some, rendering, bar), some)
                latents.update(zip(numbers, solved, strict=True))
        return [latents[number] for number in range(len(takes))]

    def _solve_batch(self, takes: Sequence[_Take], rendering: Rendering, bar: tqdm) -> list[Float[Tensor, "_ Z"]]:
        tokens = torch.stack([take.tokens for take in takes])  # [S M C]

        def advance(step: int, latents: Tensor) -> None:
            bar.update()

        return denoise(
            self.dit,
            [take.noise for take in takes],
            Condition(tokens=tokens, seconds=torch.tensor([take.seconds for take in takes], device=tokens.device)),
            self.bridge.unconditional.to(tokens.device),
            steps=rendering.steps,
            guidance=rendering.guidance,
            solver=rendering.solver,
            on_step=advance,
        )

    def _decode(
        self, clips: Sequence[Clip], latents: Sequence[Float[Tensor, "T Z"]], rendering: Rendering, progress: bool
    ) -> list[Waveform]:
        """One clip at a time: in a batch, what pads a shorter clip would be heard at its end, and memory would grow."""
        rate = self.codec.sample_rate
        waveforms = []
        with self._bar("decoding", len(clips), " clips", progress) as bar:
            for clip, latent in zip(clips, latents, strict=True):
                most = len(latent) * self.codec.hop
                num_samples = rendering.num_samples(clip, rate, most)
                decodable = min(max(num_samples, 1), most)
                decoded = self.codec.decode(latent[None], num_samples=decodable, max_frames=self.max_decode_frames)
                samples = decoded[0].float().cpu().numpy()
                if not np.isfinite(samples).all():
                    raise not_finite(f"the sound of event {clip.event + 1}", self.dit.dtype)
                waveforms.append(timeline.fit(Waveform(samples=samples, sample_rate=rate), num_samples))
                bar.update()
        return waveforms

    def _checked(self, instruction: str | Instruction, total_seconds: float | None = None) -> Instruction:
        if isinstance(instruction, str):
            instruction = Instruction(text=instruction.strip(), total_seconds=total_seconds)
        elif total_seconds is not None:
            instruction = replace(instruction, total_seconds=total_seconds)
        if not instruction.text.strip():
            raise ValueError("the instruction is empty; say in words what should be heard")
        total, longest = instruction.total_seconds, self.settings.max_story_seconds
        if total is not None and not SHORTEST_STORY_SECONDS <= total <= longest:
            raise ValueError(f"a story lasts {SHORTEST_STORY_SECONDS:g} to {longest:g} seconds, {total:g} were asked")
        return instruction

    def _rendering(
        self,
        seed: int,
        steps: int | None,
        guidance: float | None,
        solver: str | None,
        crossfade_seconds: float | None,
        as_released: bool,
    ) -> Rendering:
        longest = math.inf if as_released else self.max_clip_seconds / 2
        fade = min(self.settings.crossfade_seconds, longest) if crossfade_seconds is None else crossfade_seconds
        own = "euler" if as_released else self.settings.solver
        if not 0 <= fade <= longest:
            raise ValueError(f"the cross-fade must last 0 to {longest:g} seconds, got {fade}")
        return Rendering(
            seed=seed,
            steps=self.settings.steps if steps is None else steps,
            guidance=self.settings.guidance if guidance is None else guidance,
            solver=own if solver is None else solver,
            crossfade_seconds=fade,
            as_released=as_released,
        )

    def _reconciled(self, storyline: Storyline, total_seconds: float | None) -> tuple[Storyline, list[Problem]]:
        """Durations that add up. `render` deals with events longer than a clip, so the story's limit is theirs."""
        longest = self.settings.max_story_seconds
        settled, problems = script.reconcile(storyline, total_seconds=total_seconds, max_event_seconds=longest)
        if settled.total_seconds > longest + 1e-6:
            settled, problems = script.reconcile(storyline, total_seconds=longest, max_event_seconds=longest)
        return settled, problems

    def _bar(self, what: str, total: int | None, unit: str, progress: bool) -> tqdm:
        config = {"disable": not progress, **getattr(self, "_progress_bar_config", {})}
        return tqdm(total=total, desc=what, unit=unit, **config)


def _states(
    planner: Planner, ids: Sequence[int], vocabulary: Vocabulary, heard: Float[Tensor, "P H"] | None
) -> Float[Tensor, "L H"]:
    tokens = torch.tensor([ids], device=planner.device)
    return planner.states(tokens, planner.hear(ids, vocabulary, heard))[0]


def _noise_index(clip: Clip) -> int:
    """An event's noise stays the same when the events before it change their number of parts."""
    return clip.event + PART_NOISE_STRIDE * clip.part


def _otherwise(event: int, written: float, planned: float) -> Problem:
    message = f"event {event} was written with {written:g} s; it keeps the {planned:g} s that the reasoning plans"
    return Problem(kind=ProblemKind.DURATION, event=event, message=message)


def _in_halves(work: Callable[[list[_T]], list[_R]], items: list[_T]) -> list[_R]:
    """`work(items)`, or where memory does not hold it, that of each half: what is made of each item in turn."""
    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    half = len(items) // 2  # out of the clause above, which keeps what filled the memory
    return [*_in_halves(work, items[:half]), *_in_halves(work, items[half:])]


def _in_its_place(error: Exception, message: str | None = None) -> StoryError:
    """Among many stories; the error is its cause."""
    story_error = StoryError(message or str(error))
    story_error.__cause__ = error
    return story_error


def _no_events(problems: Sequence[Problem]) -> str:
    reason = problems[0].message if problems else "its script is empty"
    return f"the planner wrote no complete event: {reason}; raise max_new_tokens, or word the instruction otherwise"
