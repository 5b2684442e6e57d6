"""One instruction becomes a long story in sound.

A language model (the planner) reads the instruction, reasons out a storyline, and writes it event by event: a caption,
a duration and two kinds of bridge tokens. A fuser (the bridge) turns an event's tokens into a condition, a
flow-matching transformer renders the condition into audio latents, a codec decodes them, and the clips are cross-faded
into one story.

The rooms, in the order a story walks through them:

    pipeline    start here: `AudioStoryPipeline`, the whole walk
    story       the words: instruction, storyline, script, special tokens                       (no torch)
    model       the network: planner, bridge, DiT, codec, text encoder, losses
    sound       waveforms: read, resample, cross-fade, write                                    (no torch)
    soundworld  a procedural world of sounds and stories that can be told without any download  (no torch)
    dataset     manifest rows -> samples -> batches
    training    stages, loop, optimiser, checkpoints
    weights     checkpoints on disk: ours, and other people's
    parity      proof that the released weights give what the released system gives
    benchmark   scores stories on disk
    as10k       stories from videos                                                            (no torch)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiostory.pipeline import AudioStoryPipeline
    from audiostory.story import Event, Instruction, Storyline

__version__ = "0.1.0"
__all__ = ["AudioStoryPipeline", "Event", "Instruction", "Storyline"]

# Looked up on first use, so that `import audiostory` and the rooms without torch stay quick.
_HOMES = {
    "AudioStoryPipeline": "audiostory.pipeline",
    "Event": "audiostory.story",
    "Instruction": "audiostory.story",
    "Storyline": "audiostory.story",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
