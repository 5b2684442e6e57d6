"""Gemini through google-genai. The package retries nothing here and gets no say in which key, service or address is
used: its own environment variables are overruled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiostory.benchmark.judge.backend import (
    BusyError,
    Key,
    RefusedError,
    UnusableError,
    failure,
    http_client,
    interrupted,
    retry_after,
)
from audiostory.benchmark.judge.openai_server import check_url
from audiostory.benchmark.judge.recording import as_sent

KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
DEFAULT_URL = "https://generativelanguage.googleapis.com"


class Gemini:
    name = "gemini"

    def __init__(
        self, model: str, key: Key | None, *, base_url: str = DEFAULT_URL, temperature: float, timeout: float
    ) -> None:
        """ValueError without a key, or without the package."""
        check_url(base_url)
        if key is None:
            raise ValueError(f"no key: set {' or '.join(KEY_VARIABLES)}")
        try:
            from google import genai
            from google.genai import types
        except ImportError as error:
            raise ValueError("Gemini needs the extra `judge`: pip install 'audiostory[judge]'") from error
        self.model, self.temperature, self.base_url, self._key = model, temperature, base_url, key
        options = types.HttpOptions(
            base_url=base_url,
            timeout=max(1, round(1000 * timeout)),
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_client=http_client(timeout),
        )
        self._client = genai.Client(api_key=key.reveal(), vertexai=False, http_options=options)

    def ask(self, prompt: str, audio: Path | None) -> str:
        import httpx
        from google.genai import errors, types

        parts = [types.Part.from_text(text=prompt)]
        if audio is not None:
            parts.insert(0, types.Part.from_bytes(data=as_sent(audio), mime_type="audio/wav"))
        config = types.GenerateContentConfig(temperature=self.temperature, response_mime_type="application/json")
        try:
            answer = self._client.models.generate_content(
                model=self.model, contents=types.Content(role="user", parts=parts), config=config
            )
        except errors.APIError as error:
            raise self._failure(error) from None  # the chain would show what the message leaves out
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise interrupted(error) from None
        except ValueError:
            raise RefusedError("the server's answer is none of Gemini's") from None
        return self._key.without(answer.text or "")  # no text where the model declines

    def _failure(self, error: Any) -> Exception:
        if "API_KEY_INVALID" in str(error.details):  # a 400, unlike other services' 401
            return UnusableError("the key is not valid")
        headers = getattr(error.response, "headers", None) or {}
        found = failure(int(error.code or 500), headers, str(error.message or ""), self._key)
        if isinstance(found, BusyError) and found.retry_after is None:
            found.retry_after = _retry_delay(error.details)
        return found


def _retry_delay(details: Any) -> float | None:
    """Gemini asks for patience in the body: {"error": {"details": [{"retryDelay": "17s"}]}}."""
    error = details.get("error") if isinstance(details, Mapping) else None
    for entry in (error.get("details") if isinstance(error, Mapping) else None) or ():
        if isinstance(entry, Mapping) and str(entry.get("retryDelay", "")).endswith("s"):
            return retry_after(str(entry["retryDelay"])[:-1], 0.0)
    return None
