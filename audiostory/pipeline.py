"""Start here: one instruction becomes a long story in sound.

    pipeline = AudioStoryPipeline.from_pretrained()          # the bundled audiostory-mini
    told = pipeline("a dog barks twice, then rain comes down", total_seconds=12.0)
    told.storyline.events, told.story.samples                # what is heard and when; the sound [channels, samples]

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from audiostory import timeline
from audiostory.model import flow
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT, guided_velocity
from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.model.listener import Audio, AudioEncoder, Listener, ListenerProjector, Recording
from audiostory.model.planner import Planner, Written
from audiostory.sound import Waveform
from audiostory.story import Instruction, Problem, ProblemKind, Storyline, Vocabulary, script
from audiostory.story_audio import Rendering, StoryAudio, assemble
from audiostory.timeline import Clip
from audiostory.weights import huggingface, ours, released
from audiostory.weights.ours import Settings

MINI = Path(__file__).parent / "assets" / "audiostory-mini"
SHORTEST_STORY_SECONDS = 1.0
SHORTEST_CLIP_SECONDS = 1.0  # shorter ones are rendered this long and cut: no network is trained on less
PART_NOISE_STRIDE = 10_000  # noise indices between the parts of a long event; no story has as many events
QUESTION = "What can be heard?"
TOKENS_OF_WORDS = 256  # kept for an instruction beside the longest recording


class StoryError(ValueError):
    """The planner wrote nothing that could be rendered."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be heard: events whose durations add up, and for each of them the planner's bridge tokens."""

    instruction: Instruction
    storyline: Storyline
    bridge_tokens: BridgeTokens
    problems: tuple[Problem, ...]


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
        crossfade_seconds: float | None = None,
        max_new_tokens: int = 1600,
        as_released: bool = False,
        progress: bool = True,
    ) -> StoryAudio:
        """`plan` and `render` in one go; what is None is the model's setting. Bad values fail before any work is done.

        Without `total_seconds` the planner decides how long the story is. Raises ValueError for what the caller got
        wrong, and StoryError, which is one, when the planner writes no complete event.
        """
        rendering = self._rendering(seed, steps, guidance, crossfade_seconds, as_released)
        instruction = self._checked(instruction, total_seconds)
        plan = self.plan(
            instruction, audio=audio, max_new_tokens=max_new_tokens, as_written=as_released, progress=progress
        )
        return self._render(plan, rendering, progress)

    def continue_story(self, audio: Audio, instruction: str | Instruction, **choices: Any) -> StoryAudio:
        """What follows a recording; `told.after(opening)` is both as one sound. The choices are those of telling a
        story: of what follows, `total_seconds` is the length. ValueError as `plan` raises it for the recording."""
        return self(instruction, audio=audio, **choices)

    @overload
    def describe(
        self, audio: Audio, question: str = QUESTION, *, max_new_tokens: int = 200, progress: bool = True
    ) -> str: ...

    @overload
    def describe(
        self, audio: Audio, question: list[str], *, max_new_tokens: int = 200, progress: bool = True
    ) -> list[str]: ...

    @torch.no_grad()
    def describe(
        self,
        audio: Audio,
        question: str | list[str] = QUESTION,
        *,
        max_new_tokens: int = 200,
        progress: bool = True,
    ) -> str | list[str]:
        """What the planner answers to a question about a recording, or to each of several, which it hears once and
        answers as if each were the only one. ValueError as `plan` raises it for any of them."""
        questions = [question] if isinstance(question, str) else question
        recording = self._listener.open(audio)
        prompts = [
            script.question(Instruction(text=text.strip()), self.vocabulary, recording.num_tokens) for text in questions
        ]
        written = self._write(prompts, recording, max_new_tokens, "answering", progress)
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
        instruction = self._checked(instruction)
        recording = self._listener.open(instruction.audio if audio is None else audio)
        prompt = script.prompt(instruction, self.vocabulary, self.settings.lead_in, recording.num_tokens)
        (written,) = self._write([prompt], recording, max_new_tokens, "planning", progress)
        plan = self.read_plan(written, replace(instruction, total_seconds=None) if as_written else instruction)
        return replace(plan, instruction=instruction)

    def _write(
        self, prompts: Sequence[list[int]], recording: Recording, max_new_tokens: int, what: str, progress: bool
    ) -> list[Written]:
        """The planner's answer to each prompt about one recording; bad ones fail before it is heard."""
        context = self.planner.qwen.config.max_position_embeddings
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}; 1600 is usual")
        if prompts and 2 * (longest := max(map(len, prompts))) > context:
            raise ValueError(f"the instruction takes {longest} tokens, the planner holds {context}; shorten it")
        heard = self._listener.hear(recording)
        with self._bar(what, None, " tokens", progress) as bar:
            return [
                apply_forward_hook(Planner.write)(  # moves an offloaded planner to its device first
                    self.planner,
                    prompt,
                    self.vocabulary,
                    heard=heard,
                    max_new_tokens=min(max_new_tokens, context - len(prompt)),
                    repetition_penalty=self.settings.repetition_penalty,
                    on_tokens=lambda ids: bar.update(len(ids)),
                )
                for prompt in prompts
            ]

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
        crossfade_seconds: float | None = None,
        as_released: bool = False,
        progress: bool = True,
    ) -> StoryAudio:
        """A plan in sound. The same (plan, seed) gives the same story; one event's sound does not depend on the others'
        noise. `as_released`: see Rendering."""
        return self._render(plan, self._rendering(seed, steps, guidance, crossfade_seconds, as_released), progress)

    def _render(self, plan: Plan, rendering: Rendering, progress: bool) -> StoryAudio:
        clips = timeline.cut(
            [event.seconds for event in plan.storyline.events],
            max_clip_seconds=math.inf if rendering.as_released else self.max_clip_seconds,
            crossfade_seconds=rendering.crossfade_seconds,
            whole_fades=rendering.as_released,
        )
        latents = self._solve(clips, self._fuse(plan.bridge_tokens), rendering, progress)
        waveforms = self._decode(clips, latents, rendering, progress)
        self.maybe_free_model_hooks()
        return assemble(plan.storyline, rendering, clips, waveforms, plan.problems)

    def _fuse(self, tokens: BridgeTokens) -> Float[Tensor, "E M C"]:
        where: dict[str, Any] = {"device": self._execution_device, "dtype": self.bridge.dtype}
        return self.bridge(
            BridgeTokens(semantic=tokens.semantic.to(**where), residual=tokens.residual.to(**where))
        ).fused

    def _solve(
        self, clips: Sequence[Clip], fused: Float[Tensor, "E M C"], rendering: Rendering, progress: bool
    ) -> list[Float[Tensor, "T Z"]]:
        """The latents of every clip, denoised as many at a time as `max_batch_frames` holds."""
        shortest = 0.0 if rendering.as_released else SHORTEST_CLIP_SECONDS
        seconds = [max(clip.seconds + clip.fade_seconds, shortest) for clip in clips]
        frames = [self.dit.num_frames(min(length, self.dit.max_seconds)) for length in seconds]
        seed = 0 if rendering.as_released else rendering.seed
        noise = [
            flow.clip_noise(seed, index, count, self.dit.config["in_channels"], rendering.as_released)
            for index, count in zip([_noise_index(clip) for clip in clips], frames, strict=True)
        ]
        latents: list[Tensor] = []
        batches = list(_batches(frames, self.max_batch_frames))
        with self._bar("denoising", rendering.steps * len(batches), " steps", progress) as bar:
            for batch in batches:
                latents += self._solve_batch(
                    noise[batch.start : batch.stop],
                    fused[[clip.event for clip in clips[batch.start : batch.stop]]],
                    seconds[batch.start : batch.stop],
                    rendering,
                    bar,
                )
        return latents

    def _solve_batch(
        self,
        noise: Sequence[Float[Tensor, "T Z"]],
        fused: Float[Tensor, "S M C"],
        seconds: Sequence[float],
        rendering: Rendering,
        bar: tqdm,
    ) -> list[Float[Tensor, "T Z"]]:
        device = fused.device
        frames = [len(clip) for clip in noise]
        padded = torch.nn.utils.rnn.pad_sequence(list(noise), batch_first=True).to(device)  # [S T Z]
        velocity = guided_velocity(
            self.dit,
            Condition(tokens=fused, seconds=torch.tensor(seconds, device=device)),
            self.bridge.unconditional.to(device),
            rendering.guidance,
            None if min(frames) == max(frames) else torch.tensor(frames, device=device),
        )

        def advance(step: int, latents: Tensor) -> None:
            bar.update()

        latents = flow.euler(velocity, padded, rendering.steps, on_step=advance)
        return [clip[:count] for clip, count in zip(latents, frames, strict=True)]

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
                samples = self.codec.decode(latent[None], num_samples=decodable)[0].float().cpu().numpy()
                if not np.isfinite(samples).all():
                    raise ValueError(
                        f"event {clip.event + 1} is not finite in {self.dit.dtype}; use float32 or bfloat16"
                    )
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
        crossfade_seconds: float | None,
        as_released: bool,
    ) -> Rendering:
        longest = math.inf if as_released else self.max_clip_seconds / 2
        fade = min(self.settings.crossfade_seconds, longest) if crossfade_seconds is None else crossfade_seconds
        if not 0 <= fade <= longest:
            raise ValueError(f"the cross-fade must last 0 to {longest:g} seconds, got {fade}")
        return Rendering(
            seed=seed,
            steps=self.settings.steps if steps is None else steps,
            guidance=self.settings.guidance if guidance is None else guidance,
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


def _batches(frames: Sequence[int], most: int) -> Iterator[range]:
    """Runs of clips that hold at most `most` frames when padded to the longest; a clip above that goes alone."""
    start, longest = 0, 0
    for stop, count in enumerate(frames):
        longest = max(longest, count)
        if stop > start and longest * (stop + 1 - start) > most:
            yield range(start, stop)
            start, longest = stop, count
    yield range(start, len(frames))


def _no_events(problems: Sequence[Problem]) -> str:
    reason = problems[0].message if problems else "its script is empty"
    return f"the planner wrote no complete event: {reason}; raise max_new_tokens, or word the instruction otherwise"
