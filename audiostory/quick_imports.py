"""How a command that only tells stories starts sooner. No torch here.

    with quick_imports():
        import audiostory.pipeline

diffusers and transformers import peft and scipy wherever those are installed, for LoRA of diffusers' own kind, a
scheduler and losses of object detection. Telling needs none of them, and they take a second of five (two CPU cores);
the garbage collector, which goes through all that was imported again and again and frees nothing, takes half a second.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_FOR_TELLING = ("peft", "scipy")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Within, these packages are not found, and nothing is collected. Afterwards they can be imported as ever, but
    diffusers and transformers, if they were imported within, do without them: for a process that is a command's own."""
    hidden = [name for name in NOT_FOR_TELLING if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's way to say so
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        if collects:
            gc.enable()
