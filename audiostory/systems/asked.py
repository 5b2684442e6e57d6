"""What every system is asked for, and what a system is. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

from audiostory.story.types import Instruction, Storyline
from audiostory.story_audio import StoryAudio

if TYPE_CHECKING:
    from audiostory.pipeline import StoryError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One story that every system is asked for, in a folder named `id`.

    `caption` is the whole story in a sentence, for systems that plan nothing. `storyline` is the truth, which only
    oracles look at.
    """

    id: str
    instruction: Instruction
    caption: str
    storyline: Storyline


class System(Protocol):
    @property
    def settings(self) -> Mapping[str, Any]:
        """All that its telling depends on, as JSON: what kind it is, the digests of its weights, steps, guidance, seed.
        Known before any network is loaded."""
        ...

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio | StoryError]:
        """A story for each, or why there is none, in order, as they are ready; the first waits for the networks.

        A story is the same but for rounding whichever others are asked with it. ValueError for what a person must mend:
        a folder that is no model, a device that is not there.
        """
        ...


def story_seed(seed: int, id: str) -> int:
    """Every story has noise of its own, the same one however many stories are told."""
    return crc32(f"{seed} {id}".encode())
