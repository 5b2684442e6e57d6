"""The same weights run the way the release runs them (SPEC 4, 7, 8, 10), to have something to be faster than.

It is here for measuring alone, and it is not clumsier than the release: transformers' `generate` writes token by token,
bridge tokens too, through LoRA that is not merged, keeps the states of all levels for every step, and forces bridge
tokens by processors that read the last id. Then for each clip by itself the empty text is encoded anew, the DiT is
asked in a batch of two with all that depends on the condition computed again at every step, and the codec decodes all
that the DiT made before the clip is cut.

What is ours in it, so that the outcome can be compared: the plan is read and brought to its length by our rules, each
clip starts from the noise that we give it, the clips are joined as we do, bridge ids are barred outside their blocks
(the release scores them 0, with the same ids whenever the best score is positive), and guidance steps away from the
unconditional tokens that the bridge holds, since a stored text encoder may be rounded otherwise.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench.measure import Watch
from bench.ours import Telling, room
from bench.subjects import Story
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, T5Config

from audiostory import timeline
from audiostory.model import flow
from audiostory.model.codec import Codec, LeanSnake
from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.model.planner import LoraSettings, Planner, Written
from audiostory.model.text_encoder import TextEncoder
from audiostory.pipeline import SHORTEST_CLIP_SECONDS, AudioStoryPipeline, _noise_index
from audiostory.sound import Waveform
from audiostory.story import script
from audiostory.story_audio import Rendering, assemble
from audiostory.timeline import Clip
from audiostory.weights import lora, ours, released

FLAN_T5 = {  # layers, heads and feed-forward of the published sizes, by width
    512: (8, 6, 1024),
    768: (12, 12, 2048),
    1024: (24, 16, 2816),
}


class ReleasedWay:
    """`tell` as the release would, on the pipeline's networks; the planner has LoRA and the codec its weight norm.

    With `fill`, every clip is as long as the longest in the DiT and in the decoder, as the release's are. For a network
    that was trained at the clips' own lengths, what is beyond a clip's own frames is masked out of the attention, so
    its latents are the same; at the clip's end the decoder then hears what follows.
    """

    def __init__(
        self,
        pipeline: AudioStoryPipeline,
        planner: Planner,
        text_encoder: TextEncoder | None,
        *,
        steps: int,
        guidance: float,
        fill: bool = False,
    ):
        if guidance <= 1:
            raise ValueError(f"the release knows no story without guidance; give --guidance above 1, not {guidance:g}")
        self.pipeline, self.planner, self.text_encoder = pipeline, planner, text_encoder
        self.codec = unfolded(pipeline.codec)
        self.steps, self.guidance, self.fill = steps, guidance, fill

    @torch.no_grad()
    def tell(self, story: Story, seed: int) -> Telling:
        watch = Watch(self.pipeline.device)
        began = time.perf_counter()
        with watch.phase("plan"):
            prompt = script.prompt(story.instruction, self.pipeline.vocabulary, self.pipeline.settings.lead_in)
            written = self.write(prompt, **room(story), answer=story.answer)
            plan = self.pipeline.read_plan(written, story.instruction)
        with watch.phase("bridge"):
            fused = self.pipeline.bridge(plan.bridge_tokens).fused
        rendering = self._rendering(seed)
        clips = self.pipeline._clips(plan.storyline, rendering)
        latents, waveforms = [], []
        for clip in clips:
            with watch.phase("denoise"):
                own, made = self._denoise(clip, fused[clip.event], seed)
                latents.append(own)
            with watch.phase("decode"):
                waveforms.append(self._decode(clip, made))
        with watch.phase("stitch"):
            audio = assemble(plan.storyline, rendering, clips, waveforms, plan.problems)
        whole = time.perf_counter() - began
        return Telling.of(watch, whole, ids=written.ids, plan=plan, latents=latents, audio=audio)

    @torch.no_grad()
    def write(self, prompt: Sequence[int], max_new_tokens: int, answer: Sequence[int] | None = None) -> Written:
        """The answer to a prompt, or the given one recited."""
        vocabulary, device = self.pipeline.vocabulary, self.planner.device
        processors: list[Any] = [] if answer is None else [_Recite(answer, len(prompt))]
        processors.append(_Block(vocabulary.semantic_open, vocabulary.semantic_block))
        processors.append(_Block(vocabulary.residual_open, vocabulary.residual_block))
        ids = torch.tensor([list(prompt)], device=device)
        made = self.planner.language_model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            repetition_penalty=self.pipeline.settings.repetition_penalty,
            eos_token_id=list(vocabulary.stop_ids),
            pad_token_id=vocabulary.im_end,
            logits_processor=LogitsProcessorList(processors),
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        written = tuple(made.sequences[0, len(prompt) :].tolist())
        states = torch.cat([levels[-1][0] for levels in made.hidden_states])[
            len(prompt) :
        ]  # of each id, when it is fed
        slots = script.read(written, vocabulary).slots
        tokens = BridgeTokens(
            semantic=states[torch.tensor([list(slot.semantic) for slot in slots], dtype=torch.long)],
            residual=states[torch.tensor([list(slot.residual) for slot in slots], dtype=torch.long)],
        )
        return Written(ids=written, bridge=tokens, finished=written[-1] in vocabulary.stop_ids)

    def _rendering(self, seed: int) -> Rendering:
        return self.pipeline._rendering(seed, self.steps, self.guidance, "euler", None, False)

    def _denoise(self, clip: Clip, tokens: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The clip's own latents, and all that were made with them."""
        pipeline = self.pipeline
        dit, unconditional = pipeline.dit, pipeline.bridge.unconditional
        if self.text_encoder is not None:
            self.text_encoder.unconditional(pipeline.bridge.num_semantic)
        seconds = max(clip.seconds + clip.fade_seconds, SHORTEST_CLIP_SECONDS)
        frames = dit.num_frames(min(seconds, dit.max_seconds))
        latents = flow.clip_noise(seed, _noise_index(clip), frames, dit.config["in_channels"])[None].to(tokens.device)
        own = None
        if (missing := dit.num_frames(dit.max_seconds) - frames) and self.fill:
            own = torch.tensor([frames, frames], device=tokens.device)
            latents = torch.nn.functional.pad(latents, (0, 0, 0, missing))
        both = Condition(
            tokens=torch.stack([unconditional.to(tokens), tokens]),
            seconds=torch.tensor([seconds, seconds], device=tokens.device),
        )
        times = flow.sigmas(self.steps).to(tokens.device)
        for now, then in zip(times[:-1, None], times[1:, None], strict=True):
            # A condition that is not prepared, at every step.
            halves = dit(latents.repeat(2, 1, 1), now, both, own).chunk(2)
            latents = latents + (then - now) * flow.guide(*halves, scale=self.guidance)
        return latents[0, :frames], latents[0]

    def _decode(self, clip: Clip, latents: Tensor) -> Waveform:
        rate = self.codec.sample_rate
        samples = self.codec.decode(latents[None])[0].float().cpu().numpy()
        return timeline.fit(Waveform(samples=samples, sample_rate=rate), clip.num_samples(rate))


class _Block(LogitsProcessor):
    """After an opening or numbered bridge token comes the next one; anywhere else none may come."""

    def __init__(self, opening: int, block: Sequence[int]):
        self.before, self.block = [opening, *block[:-1]], list(block)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = int(input_ids[0, -1])  # waits for the device, as the release does at every step
        if last in self.before:
            scores[0, self.block[self.before.index(last)]] = scores[0].max() + 10
        else:
            scores[0, torch.tensor(self.block, device=scores.device)] = -math.inf
        return scores


class _Recite(LogitsProcessor):
    """Stands in for what a trained planner would choose; comes before the blocks."""

    def __init__(self, answer: Sequence[int], num_prompt: int):
        self.answer, self.num_prompt = answer, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[0, self.answer[input_ids.shape[1] - self.num_prompt]] = scores[0].max() + 10
        return scores


def unmerged(planner: Planner, settings: LoraSettings) -> Planner:
    """The same planner, its weights shared, with LoRA beside them that adds zero and costs what a trained one does."""
    own = {id(parameter): parameter for parameter in planner.qwen.parameters()}  # what a deep copy need not copy
    twin = Planner(copy.deepcopy(planner.qwen, own)).eval()
    twin.add_lora(settings)
    return twin.to(planner.dtype).requires_grad_(False)


def unfolded(codec: Codec) -> Codec:
    """A copy of the codec with diffusers' own activation, and with weight norm in force, computed anew at every call,
    whatever became of the codec's."""
    twin: Any = Codec.from_config(codec.config)
    kept, state = codec.state_dict(), {}
    for name, tensor in twin.state_dict().items():
        if name in kept:
            state[name] = kept[name]
            continue
        weight = kept[name[: -len("_g")]]  # folded: w = g v / |v|, with a length for each of the first dimension
        state[name] = weight.flatten(1).norm(dim=1).view(tensor.shape) if name.endswith("_g") else weight
    twin.load_state_dict(state)
    for module in twin.modules():
        if isinstance(module, LeanSnake):
            setattr(module, "__class__", Snake1d)  # noqa: B010  # a wider class, which types do not allow
    torch.nn.Module.to(twin, device=codec.device, dtype=codec.dtype)  # diffusers' own warns of nothing
    return twin.eval().requires_grad_(False)


def planner_and_encoder(
    pipeline: AudioStoryPipeline, folder: Path | None, tangoflux: Path | None
) -> tuple[Planner, TextEncoder | None, list[str]]:
    """What the release needs besides: LoRA, and the text encoder; and a line on each, where they are from."""
    dtype, layout = pipeline.planner.dtype, LoraSettings()
    if folder is not None and released.looks_released(folder):
        read = released.read(released.Folders.of(folder, tangoflux), dtype, keep_lora=True, text_encoder=True)
        return read.planner, read.text_encoder, ["LoRA: the checkpoint's own", "text encoder: the checkpoint's own"]
    if folder is not None and (folder / "planner" / lora.FOLDER).is_dir():
        planner = ours.read_component(folder, "planner", dtype, keep_lora=True)
        told = ["LoRA: the folder's own"]
    else:
        planner = unmerged(pipeline.planner, layout)
        told = [f"LoRA: of rank {layout.rank}, adding zero; the folder keeps none apart"]
    if folder is not None and (folder / "text_encoder" / "config.json").is_file():
        return planner, ours.read_component(folder, "text_encoder"), [*told, "text encoder: the folder's own"]
    width = pipeline.bridge.config["condition_width"]
    if width not in FLAN_T5:
        return planner, None, [*told, f"text encoder: left out, no Flan-T5 is {width} wide"]
    return planner, flan_t5(width), [*told, f"text encoder: a Flan-T5 of width {width}, random"]


def flan_t5(width: int) -> TextEncoder:
    layers, heads, feed_forward = FLAN_T5[width]
    config = T5Config(
        vocab_size=32128,
        d_model=width,
        d_kv=64,
        d_ff=feed_forward,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
    )
    tokenizer = Tokenizer(models.BPE(vocab={"<pad>": 0, "</s>": 1}, merges=[]))  # enough to write the empty text
    return TextEncoder.random(config, tokenizer).eval()
