"""What a step has made, one JSON line per thing, so that a stopped step goes on and a changed one is made anew.

A line holds what was made of what (`made_of`, a digest of input and settings) and either the result or the reason why
nothing came of it. Later lines replace earlier ones with the same key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiostory.lines import append_line, drop_unfinished


class Dropped(ValueError):  # noqa: N818 - not an error, a finding
    """A thing that has no place in the corpus. The message is the reason, in words that many things can share."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


class Refused(Dropped):
    """A thing that a model will not answer about. It is believed once the model has answered about another one: a
    server that is set up wrongly refuses everything."""


class PassedOver(Dropped):
    """A file that cannot be read now, for want of a right or on a disk that is away: no fault of its own. It is dropped
    from this run alone, and the next one tries again."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line. `dropped` is "" for what was kept; `files` are sizes in bytes by path, relative to the work folder."""

    key: str
    made_of: str
    result: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    dropped: str = ""
    detail: str = ""

    @property
    def digest(self) -> str:
        """Changes whenever what later steps read of this entry does."""
        return digest(self.key, self.made_of, self.result)


class Ledger:
    """The lines of one step, in the file `path`. The files that entries name lie under `folder`."""

    def __init__(self, path: Path, folder: Path):
        self.path, self.folder = path, folder
        self.entries: dict[str, Entry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._read()

    def holds(self, key: str, made_of: str) -> bool:
        """Whether this was made already, of the same things, and its files are there as they were written."""
        entry = self.entries.get(key)
        if entry is None or entry.made_of != made_of:
            return False
        return all(_size(self.folder / name) == size for name, size in entry.files.items())

    def add(self, entry: Entry) -> None:
        append_line(self.path, vars(entry))  # in ASCII, which keeps names that are no Unicode, too
        # A key that is made anew goes to the end, as it will when the file is read again.
        self.entries.pop(entry.key, None)
        self.entries[entry.key] = entry

    def _read(self) -> None:
        drop_unfinished(self.path)
        for number, line in enumerate(self.path.read_bytes().splitlines(), 1):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number} cannot be read ({error}); delete the file, and the step is done again"
                ) from error
            self.entries.pop(entry.key, None)
            self.entries[entry.key] = entry


def digest(*parts: object) -> str:
    """16 hex digits of what JSON can hold; the same in every process."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def sizes(folder: Path, *files: Path) -> dict[str, int]:
    """What an entry tells about its files."""
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
