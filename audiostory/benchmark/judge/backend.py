"""What every back end is: one method that puts a prompt, and a recording if there is one, to a model and returns what
it wrote; and three ways to fail, of which one is worth another try.

What a server says never passes this point with the key in it: servers echo headers, libraries quote them.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import httpx

AGAIN = (408, 409, 425, 429)  # and every 5xx
HOPELESS = (401, 402, 403, 404)  # no other request would fare better
KEY_TROUBLE = (401, 403)
SHORTEST_LEAK = 6  # characters of a key in a row that must not be told
LONGEST_MESSAGE = 200


class BusyError(Exception):
    """The request may work later: in `retry_after` seconds, if the server said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(Exception):
    """This request will not work, others may."""


class UnsendableError(RefusedError):
    """The recording cannot be put to this model, so that nothing was asked of it."""


class UnusableError(Exception):
    """No request will work: a wrong key, a model that does not exist."""


class Backend(Protocol):
    name: str  # "gemini", "openai" or "local"
    model: str
    temperature: float

    def ask(self, prompt: str, audio: Path | None) -> str:
        """What the model wrote. BusyError, RefusedError and UnusableError have words that are safe to show. Called from
        several threads at once."""
        ...


class Key:
    """A key out of an environment variable. It shows itself to nobody but `reveal`'s caller."""

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def from_environment(cls, *names: str) -> Key | None:
        """The first of the variables that is set. ValueError, without the key, for one that no server could take."""
        for name in names:
            if value := os.environ.get(name, "").strip():
                if not re.fullmatch(r"[!-~]+", value):
                    raise ValueError(f"the key in {name} holds spaces, line ends or letters that are not ASCII; set it")
                return cls(value)
        return None

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Key(hidden)"

    def without(self, text: str) -> str:
        """The text with the key replaced. What is shorter than SHORTEST_LEAK is no secret but a word such as "none"."""
        return text.replace(self._value, "(key)") if len(self._value) >= SHORTEST_LEAK else text

    def or_withheld(self, text: str) -> str:
        """For what a server says of an error: without the key, or nothing of it if a part of the key is still there."""
        text = self.without(text)
        parts = (self._value[at : at + SHORTEST_LEAK] for at in range(len(self._value) - SHORTEST_LEAK + 1))
        return "(withheld: it holds a part of the key)" if any(part in text for part in parts) else text


def failure(status: int, headers: Mapping[str, str], message: str, key: Key | None) -> Exception:
    """What an answer other than 200 means. `message` is the server's, which is shortened after the key is out."""
    if status in KEY_TROUBLE:
        message = "the key is wrong, or may not do this"  # the server's own words often hold the ends of the key
    said = " ".join((key.or_withheld(message) if key else message).split())[:LONGEST_MESSAGE]
    words = f"the server answered {status}" + (f": {said}" if said else "")
    if status in AGAIN or status >= 500:
        return BusyError(words, retry_after(headers.get("retry-after"), time.time()))
    return (UnusableError if status in HOPELESS else RefusedError)(words)


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a Retry-After header asks to wait, which holds a number or a date; None for anything else."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def http_client(timeout: float) -> httpx.Client:
    """A client whose requests end: after `timeout` seconds without an answer, and after as many again in which one
    trickles in. ValueError when the package is missing."""
    try:
        import httpx
    except ImportError as error:
        raise ValueError("judging over a network needs the extra `judge`: pip install 'audiostory[judge]'") from error

    class Limited(httpx.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream, self._end = stream, time.monotonic() + timeout

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._stream:
                if time.monotonic() > self._end:
                    raise httpx.ReadTimeout("the answer came too slowly")
                yield chunk

        def close(self) -> None:
            self._stream.close()

    def limit(response: httpx.Response) -> None:
        response.stream = Limited(response.stream)

    return httpx.Client(timeout=timeout, event_hooks={"response": [limit]})


def interrupted(error: Exception) -> BusyError:
    """A connection that failed, or a server that kept silent. Only the error's kind: its words may quote headers."""
    return BusyError(f"no answer from the server ({type(error).__name__})")
