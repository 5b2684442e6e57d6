"""A tiny training as one process of several runs it: company.py OUTPUT '{"processes": "ddp"}' [KILL_AT] [STEPS]

Each micro-batch is another tiny batch, so that one process with two and two processes with one each see the same. With
KILL_AT the last process kills itself, unasked and unsaved, when it is to make that step's batch.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import test_loop

from audiostory.model import tiny
from audiostory.training import journal
from audiostory.training.config import Logger

STAGE = replace(
    test_loop.STAGE,
    steps=4,
    parts={name: replace(part, ema=name == "rest") for name, part in test_loop.STAGE.parts.items()},
    pace=replace(test_loop.STAGE.pace, save=2, validate=2, validate_batches=1, listen=2),
)


class Stories:
    def __init__(self, kill_at: int):
        self.kill_at = kill_at

    def batch(self, index: int, piece: int, pieces: int):
        if index == self.kill_at and piece == pieces - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(tiny.story_batch(seed=100 * index + piece), sample_ids=(f"row-{index}-{piece}",))


def main(output: Path, runtime: dict, kill_at: int = -1, steps: int = 4) -> None:
    made = test_loop.training(replace(STAGE, steps=steps), val=True, **runtime)
    made.train.sources[:] = [Stories(kill_at)]
    assert made.val is not None
    made.val.sources[:] = [Stories(-1)]
    output.mkdir(exist_ok=True)
    opened = partial(journal.Journal, output, steps=steps, name="s", logger=Logger(kind="none"), settings={})
    made.run(output, journal=lambda step: opened(step=step, silent=not made.engine.main))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), *map(int, sys.argv[3:]))
