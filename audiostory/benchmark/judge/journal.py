"""The answers on disk, one line each as soon as it is there, under the key of the question.

Whatever stops a run, at most the answers on their way are lost. A key is the digest of all that an answer depends on,
so an answer to other words, another recording or another model never stands in for one that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from audiostory.lines import append_line, drop_unfinished, read_lines


class Journal:
    """The rows of a file by their keys; of several with one key the first. `cut` are the bytes of a half line at the
    end, which is taken off. ValueError names a line that is no row."""

    def __init__(self, file: Path) -> None:
        self.file, self.rows, self._lock = file, dict[str, Mapping[str, Any]](), Lock()
        size = file.stat().st_size if file.is_file() else 0
        drop_unfinished(file)
        self.cut = size - (file.stat().st_size if size else 0)
        for where, row in read_lines(file) if size else ():
            if not isinstance(row, dict) or not isinstance(row.get("key"), str):
                raise ValueError(f"{where} is no answer of a judge; move the file away, or mend the line")
            self.rows.setdefault(row["key"], row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Safe from several threads."""
        with self._lock:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.file, row)
            self.rows.setdefault(row["key"], row)
