"""The words of a story: what is asked, what is planned, and the script of tokens in between. Needs no torch.

`script.write` turns a storyline into tokens, `script.read` turns tokens back, and `script.reconcile` makes a storyline
last what was asked.
"""

from audiostory.story.types import (
    BridgeSlot,
    Event,
    Instruction,
    Layout,
    Problem,
    ProblemKind,
    Reading,
    Role,
    Script,
    Storyline,
)
from audiostory.story.vocabulary import SPECIAL_TOKENS, Vocabulary, add_special_tokens

__all__ = [
    "SPECIAL_TOKENS",
    "BridgeSlot",
    "Event",
    "Instruction",
    "Layout",
    "Problem",
    "ProblemKind",
    "Reading",
    "Role",
    "Script",
    "Storyline",
    "Vocabulary",
    "add_special_tokens",
]
