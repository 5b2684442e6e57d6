"""A command that tells stories imports what it needs, and the rest can be had afterwards."""

from __future__ import annotations

import subprocess
import sys

import commands

PROBE = """
import gc, sys
from audiostory.quick_imports import quick_imports
with quick_imports():
    import audiostory.pipeline
left_out = [name for name in ("peft", "scipy.stats", "scipy.optimize") if name in sys.modules]
assert not left_out, left_out
assert gc.isenabled()
from audiostory.model import tiny
from audiostory.model.planner import LoraSettings
planner = tiny.planner()
planner.add_lora(LoraSettings(rank=2, alpha=2))
planner.merge_lora()
import scipy.signal
"""


def test_peft_and_scipy_are_left_out_and_can_be_had_afterwards():
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=commands.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
