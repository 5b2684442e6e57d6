"""Any server that speaks OpenAI's chat completions and takes recordings as `input_audio`: OpenAI's own, vLLM, and most
gateways."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from audiostory.benchmark.judge.backend import Key, RefusedError, failure, http_client, interrupted
from audiostory.benchmark.judge.recording import as_sent

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLES = ("OPENAI_API_KEY",)
Perceive = Callable[[Path], list[dict[str, Any]]]


class OpenAIServer:
    """`base_url` ends before /chat/completions. Without a key none is sent, as a server of one's own may want it.
    `perceive` makes of a file the parts of a chat that stand before the prompt; `heard` by default."""

    name = "openai"

    def __init__(
        self,
        model: str,
        key: Key | None,
        *,
        base_url: str = DEFAULT_URL,
        temperature: float,
        timeout: float,
        perceive: Perceive | None = None,
    ) -> None:
        check_url(base_url)
        if key is None and base_url == DEFAULT_URL:
            raise ValueError(f"no key: set {KEY_VARIABLES[0]}, or name your own server with --base_url")
        self.model, self.temperature, self.base_url = model, temperature, base_url.rstrip("/")
        self._key, self._client, self._perceive = key, http_client(timeout), perceive or heard

    def ask(self, prompt: str, audio: Path | None) -> str:
        import httpx

        content = [*(self._perceive(audio) if audio is not None else ()), {"type": "text", "text": prompt}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.temperature,
        }
        headers = {"Authorization": f"Bearer {self._key.reveal()}"} if self._key else {}
        try:
            answer = self._client.post(f"{self.base_url}/chat/completions", json=body, headers=headers)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise interrupted(error) from None  # the chain would show what the message leaves out
        if answer.status_code != 200:
            raise failure(answer.status_code, answer.headers, _message(answer), self._key)
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise RefusedError("the server's answer is no chat completion; check --base_url") from None
        text = text if isinstance(text, str) else ""  # null where a model declines
        return self._key.without(text) if self._key else text


def heard(audio: Path) -> list[dict[str, Any]]:
    """A recording as a part of a chat."""
    data = base64.b64encode(as_sent(audio)).decode()
    return [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]


def check_url(base_url: str) -> None:
    """ValueError for what is no address, or one that holds a password or a key: these would stand in the reports."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("--base_url should be an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("--base_url holds a user name, password or query; keys come from the environment alone")


def _message(answer: Any) -> str:
    """The server's own words, where they stand in the usual place."""
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return ""
