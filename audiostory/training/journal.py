"""What a run leaves to read: one line on the console, `log.jsonl`, and tensorboard or wandb (offline) when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Journal:
    """Opened at `step`, which may lie before the last line of a run that was killed: the lines after it are dropped."""

    def __init__(self, folder: Path, *, step: int, steps: int, name: str, logger: str, settings: Mapping[str, Any]):
        self.path = folder / "log.jsonl"
        if self.path.exists():
            _truncate(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self.progress = tqdm(total=steps, initial=step, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0)
        self._board = self._wandb = None
        if logger == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        elif logger == "wandb":
            import wandb

            self._wandb = wandb.init(
                project="audiostory", name=name, dir=str(folder), mode="offline", config=dict(settings), resume="never"
            )

    def write(self, step: int, values: Mapping[str, float], shown: Mapping[str, str] | None = None) -> None:
        """Numbers by name, such as {"loss/flow": 0.8}, after `step` steps; `shown` stays beside the progress bar."""
        self._file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
        self._file.flush()
        if shown:
            self.progress.set_postfix(shown)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        self.progress.close()
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a log; a last line that was cut off in the middle is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _truncate(path: Path, step: int) -> None:
    kept = [line for line in read(path) if line["step"] <= step]
    aside = path.with_suffix(".part")
    aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    aside.replace(path)
