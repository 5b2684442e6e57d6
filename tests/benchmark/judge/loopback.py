"""A judge on this machine that speaks both services' languages, listens for real, and misbehaves when told to."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiostory import sound

KEY = "sk-loopback-Zq81xK"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What came in. `audio` is the WAV file, None when there was none."""

    path: str
    headers: Mapping[str, str]
    prompt: str
    audio: bytes | None
    body: Mapping[str, Any]

    @property
    def is_gemini(self) -> bool:
        return ":generateContent" in self.path


Answer = Callable[[Request], str]
Misdeed = Callable[["Loopback", BaseHTTPRequestHandler, Request], None]


class Loopback:
    """`misdeeds` are done one per request, in their order; after them `answer` is given. Both may be set any time."""

    def __init__(self) -> None:
        self.finished = threading.Event()  # ends those that hang
        self.reset()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = _request(self.path, dict(self.headers), body)
                server.requests.append(request)
                try:
                    misdeed = server.misdeeds.popleft()
                except IndexError:
                    misdeed = says(server.answer(request))
                misdeed(server, self, request)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that has gone is no news
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        self.finished.set()
        self.finished = threading.Event()
        self.requests: list[Request] = []
        self.misdeeds: deque[Misdeed] = deque()
        self.answer: Answer = fair

    @contextmanager
    def running(self) -> Iterator[Loopback]:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self.finished.set()
            self._server.shutdown()
            self._server.server_close()


def says(text: str | None) -> Misdeed:
    """An answer of the service with this text in it."""

    def do(_: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
        _send(handler, 200, _wrapped(request, text))

    return do


def status(code: int, headers: Mapping[str, str] | None = None, message: str = "no", **error: Any) -> Misdeed:
    """An error, whose message may quote headers of the request: "{Authorization}"."""

    def do(_: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
        words = message.format_map(request.headers)
        _send(handler, code, {"error": {"code": code, "message": words, "status": "BAD", **error}}, headers)

    return do


def cut(_: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
    """Half an answer, and the connection is gone."""
    content = json.dumps(_wrapped(request, "never seen")).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def hang(server: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
    """No word until all is over."""
    server.finished.wait(20)
    handler.close_connection = True


def trickle(server: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
    """An answer that comes a byte at a time, each soon enough for a client that looks at single bytes alone."""
    content = json.dumps(_wrapped(request, "never seen" * 50)).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if server.finished.wait(0.02):
            break


def slow(seconds: float) -> Misdeed:
    def do(server: Loopback, handler: BaseHTTPRequestHandler, request: Request) -> None:
        time.sleep(seconds)
        says(fair(request))(server, handler, request)

    return do


def fair(request: Request) -> str:
    """A judge that hears one thing, how high a sound is, and answers in the form that was asked for.

    An instruction names its pitch in Hz; scores are 5 where the recording has it and 0 where not. Reasoning is 4 where
    the plan names the pitch. Consistency and coherence are always 3.
    """
    form = json.loads(request.prompt.split("\n\nAn earlier answer")[0].splitlines()[-1])
    asked = re.search(r"tone of (\d+) Hz", request.prompt)
    if "items" in form:
        assert asked is not None
        return json.dumps({"items": [f"Is there a tone of {asked[1]} Hz?", "Is there a tone at all?"]})
    if "answers" in form:
        assert request.audio is not None
        lines = re.findall(r"^(\d+)\. (.*)$", request.prompt, re.MULTILINE)
        wanted = {number: re.search(r"(\d+) Hz", line) for number, line in lines}
        right = {number: hz is None or int(hz[1]) == pitch(request.audio) for number, hz in wanted.items()}
        return json.dumps({"answers": {number: "yes" if it_is else "no" for number, it_is in right.items()}})
    if "<plan>" in request.prompt:
        assert asked is not None
        score = 4 if request.prompt.split("<plan>")[1].count(asked[0]) else 0
    elif asked:
        assert request.audio is not None
        score = 5 if pitch(request.audio) == int(asked[1]) else 0
    else:
        score = 3
    return json.dumps({"reason": "heard", "scores": dict.fromkeys(form["scores"], score)})


def pitch(wav: bytes) -> int:
    """Of a steady tone, in Hz, to the next hundred."""
    samples, rate = soundfile.read(io.BytesIO(wav))
    strongest = np.argmax(np.abs(np.fft.rfft(samples)))
    return round(strongest * rate / len(samples) / 100) * 100


def write_tone(file: Path, hertz: float, seconds: float = 0.5, rate: int = 16_000) -> Path:
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    sound.write(file, sound.Waveform(samples=samples.astype(np.float32), sample_rate=rate))
    return file


def _request(path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request:
    if ":generateContent" in path:
        parts = body["contents"][0]["parts"]
        data = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
        text = next(part["text"] for part in parts if "text" in part)
    else:
        parts = body["messages"][0]["content"]
        data = [part["input_audio"]["data"] for part in parts if part["type"] == "input_audio"]
        text = next(part["text"] for part in parts if part["type"] == "text")
    audio = base64.b64decode(data[0].replace("-", "+").replace("_", "/")) if data else None
    return Request(path=path, headers=headers, prompt=text, audio=audio, body=body)


def _wrapped(request: Request, text: str | None) -> dict[str, Any]:
    if request.is_gemini:
        parts = [] if text is None else [{"text": text}]
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def _send(
    handler: BaseHTTPRequestHandler, code: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> None:
    content = json.dumps(body).encode()
    handler.send_response(code)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **(headers or {}),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
