"""A file of JSON lines that is filled one at a time. Whatever stops a run, the lines before stay, and the next run goes
on behind them. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line that is not empty, with words for where it stands. ValueError for one that is no JSON."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    # Not splitlines: JSON may hold other ends of lines that Unicode knows.
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number} is no JSON ({error})") from error


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Adds a row at the end, and makes the file if there is none."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")  # in ASCII: Unicode has ends of lines that JSON would leave as they are


def drop_unfinished(file: Path) -> None:
    """Cuts off what was left of a last line when its writing was stopped. A file that is not there stays so."""
    if not file.is_file():
        return
    content = file.read_bytes()
    if (whole := content.rfind(b"\n") + 1) < len(content):
        with file.open("r+b") as stream:
            stream.truncate(whole)
