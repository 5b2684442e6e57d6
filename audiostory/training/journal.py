"""What a run leaves to read: one line on the console, `log.jsonl`, and tensorboard or wandb when asked."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from audiostory.disk import write_text
from audiostory.training.config import Logger

MOST_EXAMPLES = 16  # of a listening, that tensorboard or wandb are sent


class Journal:
    """Opened at `step`, which may lie before the last line of a run that was killed: the lines after it are dropped.

    A `silent` one, of a process that is not the main one, writes nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        steps: int,
        name: str,
        logger: Logger,
        settings: Mapping[str, Any],
        silent: bool = False,
    ):
        self.path, self.silent = folder / "log.jsonl", silent
        self.progress = tqdm(
            total=steps, initial=step, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0, disable=silent
        )
        self._board: Any = None
        self._wandb: Any = None
        if silent:
            return
        if self.path.exists():
            _truncate(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        if logger.kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        elif logger.kind == "wandb":
            self._wandb = _open_wandb(folder, name, logger, settings)

    def write(self, step: int, values: Mapping[str, float], shown: Mapping[str, str] | None = None) -> None:
        """Numbers by name, such as {"loss/flow": 0.8}, after `step` steps; `shown` stays beside the progress bar."""
        if self.silent:
            return
        self._file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
        self._file.flush()
        if shown:
            self.progress.set_postfix(shown)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def examples(self, step: int, folder: Path) -> None:
        """Shows what a listening wrote into `folder`: sounds with their spectrograms, and texts."""
        if self._board is None and self._wandb is None:
            return
        from audiostory import picture, sound

        for path in sorted(folder.glob("*.wav"))[:MOST_EXAMPLES]:
            waveform = sound.read(path)
            pixels = picture.spectrogram(waveform)
            name = f"examples/{path.stem}"
            if self._board is not None:
                self._board.add_audio(name, waveform.samples.mean(0)[None], step, sample_rate=waveform.sample_rate)
                self._board.add_image(f"{name}_spectrogram", pixels, step, dataformats="HWC")
            if self._wandb is not None:
                import wandb

                heard = wandb.Audio(waveform.samples.mean(0), sample_rate=waveform.sample_rate)
                self._wandb.log({name: heard, f"{name}_spectrogram": wandb.Image(pixels)}, step=step)
        for path in sorted(folder.glob("*.txt"))[:MOST_EXAMPLES]:
            text = path.read_text(encoding="utf-8")
            if self._board is not None:
                self._board.add_text(f"examples/{path.stem}", f"```\n{text}\n```", step)
            if self._wandb is not None:
                import wandb

                self._wandb.log({f"examples/{path.stem}_text": wandb.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        self.progress.close()
        if self.silent:
            return
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


def _open_wandb(folder: Path, name: str, logger: Logger, settings: Mapping[str, Any]) -> Any:
    """The run that this folder has at wandb, or a new one; which it is stands in wandb_id.txt."""
    import wandb

    kept = folder / "wandb_id.txt"
    if logger.mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise ValueError(
            "logger.mode=online needs a key: run `wandb login`, set WANDB_API_KEY, or take logger.mode=offline"
        )
    identity = kept.read_text().strip() if kept.is_file() else secrets.token_hex(4)
    kept.write_text(f"{identity}\n")
    return wandb.init(
        project=logger.project,
        id=identity,
        name=name,
        dir=str(folder),
        mode=logger.mode,
        config=dict(settings),
        resume="allow",
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _truncate(path: Path, step: int) -> None:
    kept = [line for line in read(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
