"""Both services against a server on this machine, which misbehaves; and keys that nobody gets to see."""

from __future__ import annotations

import io
import json
import time
import traceback
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import numpy as np
import pytest
import soundfile
from benchmark.judge import loopback
from benchmark.judge.loopback import KEY, Loopback, pitch, write_tone
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.judge import recording
from audiostory.benchmark.judge.backend import BusyError, Key, RefusedError, UnusableError, failure, retry_after
from audiostory.benchmark.judge.gemini import Gemini
from audiostory.benchmark.judge.openai_server import OpenAIServer

pytest.importorskip("httpx", reason="needs the extra `judge`")
TIMEOUT = 30.0  # of servers that behave: this machine may be busy


@pytest.fixture(scope="module")
def gemini(loopback_server: Loopback) -> Gemini:
    """One for all tests: making it takes a second."""
    pytest.importorskip("google.genai", reason="needs the extra `judge`")
    return Gemini("m-1", Key(KEY), base_url=loopback_server.root, temperature=0.0, timeout=TIMEOUT)


@pytest.fixture(params=["openai", "gemini"])
def impatient(request, server: Loopback):
    if request.param == "openai":
        return OpenAIServer("m-1", Key(KEY), base_url=f"{server.root}/v1", temperature=0.0, timeout=0.4)
    pytest.importorskip("google.genai", reason="needs the extra `judge`")
    return Gemini("m-1", Key(KEY), base_url=server.root, temperature=0.0, timeout=0.4)


@pytest.fixture(params=["openai", "gemini"])
def backend(request, server: Loopback):
    if request.param == "gemini":
        return request.getfixturevalue("gemini")
    return OpenAIServer("m-1", Key(KEY), base_url=f"{server.root}/v1", temperature=0.0, timeout=TIMEOUT)


def test_the_question_the_recording_and_the_temperature_arrive(backend, server, tmp_path):
    loud = tmp_path / "loud.wav"
    tone = 3.0 * np.sin(2 * np.pi * 600 * np.arange(48_000) / 48_000)
    soundfile.write(loud, np.stack([tone, tone], 1), 48_000, "FLOAT")
    server.misdeeds.append(loopback.says("heard"))
    assert backend.ask("What is heard?", loud) == "heard"
    (request,) = server.requests
    assert request.prompt == "What is heard?"
    assert pitch(request.audio) == 600
    info = soundfile.info(io.BytesIO(request.audio))
    assert (info.samplerate, info.channels, info.subtype, info.duration) == (24_000, 1, "PCM_16", 1.0)
    assert np.abs(soundfile.read(io.BytesIO(request.audio))[0]).max() == pytest.approx(1, abs=1e-3)  # clipped
    body = request.body.get("generationConfig", request.body)
    assert body["temperature"] == 0
    assert "m-1" in (request.path, request.body.get("model")) or "/models/m-1:" in request.path


def test_a_question_without_a_recording_sends_none(backend, server):
    server.misdeeds.append(loopback.says("read"))
    assert backend.ask("Read this.", None) == "read"
    assert server.requests[0].audio is None


def test_no_text_is_an_empty_answer(backend, server):
    server.misdeeds.append(loopback.says(None))
    assert backend.ask("What?", None) == ""


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 529])
def test_a_busy_server_is_worth_another_try(backend, server, code):
    server.misdeeds.append(loopback.status(code))
    with pytest.raises(BusyError, match=str(code)):
        backend.ask("What?", None)
    assert len(server.requests) == 1  # no library tries again behind our back


def test_retry_after_is_read_in_seconds_and_as_a_date(backend, server):
    then = datetime.now(timezone.utc) + timedelta(seconds=90)
    for value, low, high in (("17", 17, 17), (format_datetime(then, usegmt=True), 80, 90)):
        server.misdeeds.append(loopback.status(429, {"Retry-After": value}))
        with pytest.raises(BusyError) as caught:
            backend.ask("What?", None)
        assert caught.value.retry_after is not None
        assert low <= caught.value.retry_after <= high


def test_gemini_may_ask_for_patience_in_the_body(server, gemini):
    server.misdeeds.append(loopback.status(429, details=[{"@type": "x"}, {"retryDelay": "31.5s"}]))
    with pytest.raises(BusyError) as caught:
        gemini.ask("What?", None)
    assert caught.value.retry_after == 31.5
    server.misdeeds.append(loopback.status(400, details=[{"reason": "API_KEY_INVALID"}]))
    with pytest.raises(UnusableError, match="key is not valid"):
        gemini.ask("What?", None)


@pytest.mark.parametrize(
    "misdeed", [loopback.cut, loopback.hang, loopback.trickle], ids=lambda misdeed: misdeed.__name__
)
def test_a_connection_that_fails_is_worth_another_try_and_costs_no_more_time_than_allowed(impatient, server, misdeed):
    server.misdeeds.append(misdeed)
    began = time.monotonic()
    with pytest.raises(BusyError, match="no answer from the server"):
        impatient.ask("What?", None)
    assert time.monotonic() - began < 8  # the trickle would last 10 s, the silence 20


def test_a_slow_answer_within_the_time_is_an_answer(backend, server):
    server.misdeeds.append(loopback.slow(0.1))
    form = '{"reason": "", "scores": {"flow": ""}}'
    assert json.loads(backend.ask(f"Judge.\n{form}", None))["scores"] == {"flow": 3}


def test_nobody_there_is_worth_another_try():
    backend = OpenAIServer("m-1", Key(KEY), base_url="http://127.0.0.1:9/v1", temperature=0.0, timeout=TIMEOUT)
    with pytest.raises(BusyError, match="ConnectError"):
        backend.ask("What?", None)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_or_model_is_hopeless(backend, server, code):
    server.misdeeds.append(loopback.status(code))
    with pytest.raises(UnusableError, match=str(code)):
        backend.ask("What?", None)


def test_a_request_that_is_wrong_is_refused_with_the_servers_reason(backend, server):
    server.misdeeds.append(loopback.status(400, message="the audio is too long"))
    with pytest.raises(RefusedError, match="400: the audio is too long"):
        backend.ask("What?", None)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500])
def test_a_server_that_echoes_the_key_does_not_get_it_into_any_error(backend, server, code, caplog):
    caplog.set_level("DEBUG")
    name = "Authorization" if isinstance(backend, OpenAIServer) else "x-goog-api-key"
    padding = "x" * 185  # so that cutting the message short would cut the key in two
    for message in (f"you sent {{{name}}}", f"{padding}{{{name}}}", f"it begins with {KEY[:9]}***"):
        server.misdeeds.append(loopback.status(code, message=message))
        with pytest.raises((BusyError, RefusedError, UnusableError)) as caught:
            backend.ask("What?", None)
        shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
        assert not leaked(shown)
    assert KEY in str(server.requests[0].headers)  # it was sent, after all
    assert not leaked(caplog.text)


def test_a_library_that_quotes_the_key_does_not_get_it_into_any_error(server, monkeypatch):
    import httpx

    def post(*_, headers, **__):
        raise httpx.LocalProtocolError(f"Illegal header value {headers}")

    backend = OpenAIServer("m-1", Key(KEY), base_url=server.root, temperature=0.0, timeout=TIMEOUT)
    monkeypatch.setattr(backend._client, "post", post)
    with pytest.raises(BusyError, match="LocalProtocolError") as caught:
        backend.ask("What?", None)
    assert not leaked("".join(traceback.format_exception(caught.value)))


def test_an_answer_that_holds_the_key_is_handed_on_without(backend, server):
    server.misdeeds.append(loopback.says(f"your key is {KEY}"))
    assert backend.ask("What?", None) == "your key is (key)"


def leaked(text: str) -> bool:
    return any(KEY[at : at + 6] in text for at in range(len(KEY) - 5))


@settings(deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=300))
def test_no_part_of_a_key_is_left_in_a_message(before, after):
    for part in (KEY, KEY[:8], KEY[-8:], KEY * 2):
        for code in (400, 404, 500):
            assert not leaked(str(failure(code, {}, before + part + after, Key(KEY))))


@pytest.mark.parametrize("dummy", ["x", "none", "EMPTY"])
def test_a_word_in_place_of_a_key_leaves_answers_whole(server, dummy):
    text = '{"answers": {"1": "no"}} none x EMPTY'
    server.misdeeds.append(loopback.says(text))
    backend = OpenAIServer("m", Key(dummy), base_url=server.root, temperature=0.0, timeout=TIMEOUT)
    assert backend.ask("What?", None) == text


def test_a_key_does_not_show_itself():
    assert KEY not in repr(Key(KEY)) + str(Key(KEY)) + f"{Key(KEY)}"


def test_a_key_comes_from_the_first_variable_that_is_set(monkeypatch):
    assert Key.from_environment("OPENAI_API_KEY") is None
    monkeypatch.setenv("GOOGLE_API_KEY", f" {KEY}\n")
    found = Key.from_environment("GEMINI_API_KEY", "GOOGLE_API_KEY")
    assert found is not None
    assert found.reveal() == KEY
    monkeypatch.setenv("GEMINI_API_KEY", f"{KEY} and a line\nmore")
    with pytest.raises(ValueError, match="GEMINI_API_KEY") as caught:
        Key.from_environment("GEMINI_API_KEY")
    assert not leaked(str(caught.value))


def test_own_servers_may_want_no_key_and_services_do(server):
    server.misdeeds.append(loopback.says("free"))
    own = OpenAIServer("m", None, base_url=f"{server.root}/v1/", temperature=0.0, timeout=TIMEOUT)
    assert own.ask("What?", None) == "free"
    assert "Authorization" not in server.requests[0].headers
    assert server.requests[0].path == "/v1/chat/completions"
    with pytest.raises(ValueError, match="set OPENAI_API_KEY"):
        OpenAIServer("m", None, temperature=0.0, timeout=TIMEOUT)
    with pytest.raises(ValueError, match="set GEMINI_API_KEY or GOOGLE_API_KEY"):
        Gemini("m", None, temperature=0.0, timeout=TIMEOUT)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", f"http://me:{KEY}@x/v1", f"http://x/v1?key={KEY}"])
def test_an_address_that_is_none_or_holds_a_key_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="--base_url") as caught:
        OpenAIServer("m", Key(KEY), base_url=url, temperature=0.0, timeout=TIMEOUT)
    assert not leaked(str(caught.value))


@pytest.mark.parametrize("body", [b"[]", b"{}", b"<html>", b'{"choices": []}', b'{"choices": [{"message": 3}]}'])
def test_an_answer_that_is_no_chat_completion_is_refused(server, body):
    def raw(_, handler, __):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server.misdeeds.append(raw)
    with pytest.raises(RefusedError, match="no chat completion"):
        OpenAIServer("m", None, base_url=server.root, temperature=0.0, timeout=TIMEOUT).ask("What?", None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("2.5", 2.5), ("-3", 0), ("Fri, 01 Jan 2100 00:00:30 GMT", 30), ("Fri, 01 Jan 1999 00:00:00 GMT", 0)]
    + [(value, None) for value in (None, "", "soon", "nan", "inf", "Fri, 99 Jan 2100")],
)
def test_retry_after_is_seconds_a_date_or_nothing(value, seconds):
    assert retry_after(value, now=datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp()) == seconds


def test_a_recording_that_is_damaged_or_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "LARGEST_MB", 0.01)
    with pytest.raises(RefusedError, match=r"too long to be sent in one request \(0\.0 MB, 0\.01 at most\)"):
        recording.as_sent(write_tone(tmp_path / "long.wav", 600))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(RefusedError, match=r"bad\.wav"):
        recording.as_sent(tmp_path / "bad.wav")


def test_a_recording_that_changes_is_read_again_and_has_another_digest(tmp_path):
    file = write_tone(tmp_path / "a.wav", 600)
    before, sent = recording.digest(file), recording.as_sent(file)
    assert recording.digest(file) == before
    write_tone(file, 900)
    assert recording.digest(file) != before
    assert recording.as_sent(file) != sent
