"""What telling a story must cost at full size, by arithmetic: FLOPs counted on networks without memory, bytes, calls.

    python scripts/bench/arithmetic.py --events 10 --seconds 15 --steps 50

The floor of a phase is the greatest of three: its FLOPs at the card's rate, the weights it reads at the card's
bandwidth, and its calls of the card, one after the other, where nothing compiles them into one. No program reaches all
of it; half of the FLOP rate is good. The card's figures are its maker's for an H200; the time of a call is a guess.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiostory.model.dit import VelocityDiT
    from audiostory.model.planner import Planner

WORDS_PER_STORY, WORDS_PER_EVENT = 30, 70  # tokens of reasoning and captions, outside the bridge blocks
NUM_SEMANTIC, NUM_RESIDUAL = 64, 8
BYTES = 2  # of a weight in bfloat16


@dataclass(frozen=True, kw_only=True)
class Cost:
    flops: float
    bytes: float
    calls: float

    def times(self, number: float) -> Cost:
        return Cost(flops=number * self.flops, bytes=number * self.bytes, calls=number * self.calls)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--events", type=int, default=10, metavar="N", help="of the story (10)")
    add("--seconds", type=float, default=15.0, metavar="S", help="length of each, cross-fade not counted (15)")
    add("--steps", type=int, default=50, metavar="N", help="denoising steps (50)")
    add("--tflops", type=float, default=989.0, help="the card's rate in bfloat16, dense (989)")
    add("--terabytes", type=float, default=4.8, help="the card's bandwidth, TB/s (4.8)")
    add("--microseconds", type=float, default=5.0, help="of a call that nothing compiles (5)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    wrong = [name for name, value in vars(options).items() if not 0 < value < math.inf]
    if wrong or not options.seconds <= 27:
        print("error: all numbers must be positive, and --seconds at most 27 (30 less a cross-fade)", file=sys.stderr)
        return 2
    for way in (False, True):
        print("the released way" if way else "ours")
        total = [0.0, 0.0]
        for phase, cost in phases(options.events, options.seconds, options.steps, released=way).items():
            flops, read = cost.flops / options.tflops / 1e12, cost.bytes / options.terabytes / 1e12
            called = cost.calls * options.microseconds / 1e6
            total = [total[0] + max(flops, read), total[1] + max(flops, read, called)]
            print(
                f"  {phase:<8} {cost.flops / 1e12:>8.1f} TFLOP {flops:>7.3f} s, {cost.bytes / 1e9:>8.1f} GB "
                f"{read:>7.3f} s, {cost.calls:>10,.0f} calls {called:>7.2f} s"
            )
        print(f"  at least {total[0]:.2f} s compiled, {total[1]:.2f} s call by call")
    return 0


def phases(events: int, seconds: float, steps: int, *, released: bool) -> dict[str, Cost]:
    """What each phase computes, reads and calls. The release writes bridge tokens one by one with LoRA beside the
    weights, denoises and decodes clip by clip, and decodes all of a clip's 645 frames."""
    import torch

    from audiostory.model.codec import Codec
    from audiostory.model.dit import VelocityDiT
    from audiostory.model.planner import LoraSettings, Planner, PlannerConfig

    with torch.device("meta"), torch.no_grad():
        planner = Planner.random(
            PlannerConfig(
                vocab_size=152277, hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11008, max_positions=32768
            )
        )
        if released:
            planner.add_lora(LoraSettings())
        token = _token(planner)
        dit, codec = VelocityDiT(), Codec()
        frames = dit.fixed_frames or 0
        decoded = frames if released else codec.num_frames(round((seconds + 3) * codec.sample_rate)) + 10
        raw = torch.empty(1, codec.config["latent_channels"], min(decoded, frames))
        decoding = cost(lambda: codec.vae.decoder(raw), _weights(codec.vae.decoder))
        clips = 1 if released else events
        step = _step(dit, clips, frames)
    words = WORDS_PER_STORY + events * WORDS_PER_EVENT
    forwards = words + events * (NUM_SEMANTIC + NUM_RESIDUAL + 4 if released else 2)
    return {
        "plan": token.times(forwards),
        "denoise": step.times(steps * events / clips),
        "decode": decoding.times(events),
    }


def _token(planner: Planner) -> Cost:
    """The next token, its logits included; the states before it cost a hundredth of the weights and are left out."""
    import torch

    ids, no_mask = torch.zeros(1, 1, dtype=torch.long), {"full_attention": None}
    return cost(
        lambda: planner.qwen(input_ids=ids, position_ids=ids, attention_mask=no_mask, use_cache=False),
        _weights(planner),
    )


def _step(dit: VelocityDiT, clips: int, frames: int) -> Cost:
    """A denoising step of some clips with guidance, once what depends on the condition alone is computed."""
    import torch

    from audiostory.model.inputs import Condition

    width = dit.config["joint_attention_dim"]
    condition = Condition(tokens=torch.empty(2 * clips, NUM_SEMANTIC, width), seconds=torch.empty(2 * clips))
    once: Any = dit.prepare(condition, frames)
    latents = torch.empty(2 * clips, frames, dit.config["in_channels"])
    return cost(lambda: dit(latents, torch.empty(1), once), _weights(dit))


def cost(work: Callable[[], object], num_weights: int) -> Cost:
    """Of calling it: FLOPs as torch counts them, each weight read once, and each operation that is not a mere view a
    call."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Calls(TorchDispatchMode):
        num = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.num += not func.is_view
            return func(*args, **(kwargs or {}))

    with FlopCounterMode(display=False) as counter, Calls() as calls:
        work()
    return Cost(flops=counter.get_total_flops(), bytes=BYTES * num_weights, calls=calls.num)


def _weights(part: Any) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


if __name__ == "__main__":
    sys.exit(main())
