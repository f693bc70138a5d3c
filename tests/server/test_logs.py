"""What is logged, what never is, and that nobody but the server writes its lines."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from structlog.testing import capture_logs

from motet.server import logs
from motet.server.app import ROUTES
from tests.server.conftest import StartServer, write_adapters
from tests.server.fake_engine import FAIL_TOKEN, QUEUE_S
from tests.server.running_server import BASE, wait_until
from tests.server.test_cli import ServeProcess, motet_serve

CANARY = "canary-7f3a"
API_KEY, ADMIN_KEY = f"api-{CANARY}", f"admin-{CANARY}"


def lines_of(served: ServeProcess) -> list[str]:
    """The log: all that comes after the banner, which ends with a blank line."""
    return served.text.partition("List the models")[2].partition("\n\n")[2].splitlines()


def bodies(model: str) -> Iterator[dict[str, Any]]:
    """Right and wrong ones, all with the canary wherever a client may put text."""
    message = {"role": "user", "content": CANARY}
    right = {"model": model, "prompt": CANARY, "max_tokens": 3, "user": CANARY, "stop": CANARY}
    yield right
    yield right | {"stream": True}
    yield right | {"stream": True, "n": 2, "seed": 1}
    yield right | {"prompt": [CANARY, CANARY], "metadata": {CANARY: CANARY}}
    yield {"model": model, "messages": [message], "max_tokens": 3}
    yield {"model": model, "messages": [message], "max_tokens": 3, "stream": True}
    yield {"model": model, "messages": [{"role": CANARY, "content": CANARY}]}
    yield {"model": CANARY, "prompt": CANARY, "messages": [message]}
    yield right | {"temperature": CANARY}
    yield right | {CANARY: CANARY}
    yield right | {"prompt": {"text": CANARY}}
    yield right | {"prompt": CANARY * 1000}
    yield {"lora_name": "green", "lora_path": CANARY}  # what an admin names is told
    yield {"lora_name": "red", "lora_path": f"/{CANARY}", "load_inplace": True}


def send(http: httpx2.Client, method: str, url: str, **kwargs: Any) -> None:
    """Events of adapters have no end: of these, only what tells that they have begun is read."""
    with http.stream(method, url, **kwargs) as response:
        if url == "/admin/v1/events":
            next(response.iter_raw())
        else:
            response.read()


def send_everything(http: httpx2.Client, model: str) -> None:
    """Each body to each route, with each key."""
    keys = (API_KEY, ADMIN_KEY, f"wrong-{CANARY}")
    for method, path, _ in ROUTES:
        url = re.sub(r"\{[^}]*\}", "red", path)
        for key in keys:
            headers = {"Authorization": f"Bearer {key}", "x-request-id": f"{CANARY} {CANARY}"}
            for body in bodies(model) if method == "POST" else [{}]:
                send(http, method, url, headers=headers, json=body or None)
            send(http, method, url, headers=headers, params={"q": CANARY})
    admin = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
    http.post("/v1/completions", headers=admin, content=f'{{"prompt": "{CANARY}", ')


def test_no_prompt_and_no_key_is_in_the_logs_of_either_process(
    model_dir: Path, tmp_path: Path
) -> None:
    adapters = str(write_adapters(tmp_path / "adapters"))
    env = {"MOTET_API_KEY": API_KEY, "MOTET_ADMIN_KEY": ADMIN_KEY}
    arguments = [str(model_dir), "--port", "0", "--adapter-dir", adapters]
    with motet_serve(tmp_path, *arguments, env=env) as served:
        with httpx2.Client(base_url=served.url, timeout=30) as http:
            http.headers["Authorization"] = f"Bearer {API_KEY}"
            send_everything(http, "red")
            send_everything(http, model_dir.name)
            failing = {"model": model_dir.name, "prompt": [FAIL_TOKEN, 50], "user": CANARY}
            assert http.post("/v1/completions", json=failing).status_code == 500
        wait_until(lambda: '"status": 500' in served.text)  # a line follows its answer
        events = [json.loads(line) for line in lines_of(served)]
        statuses = {event["status"] for event in events if event["event"] == "request"}
        assert {200, 400, 401, 403, 404, 500} <= statuses
        assert CANARY not in served.text


def test_nobody_forges_a_line(model_dir: Path, tmp_path: Path) -> None:
    forged = '\n{"event": "forged", "level": "info"}\r\n\x1b[2J\u2028'
    with (
        motet_serve(tmp_path, str(model_dir), "--port", "0") as served,
        httpx2.Client(base_url=served.url, timeout=30) as http,
    ):
        http.get(f"/v1/models/{quote(forged)}")
        http.get(f"/live{quote(forged)}")
        http.get("/v1/models", headers={"x-request-id": forged.encode("unicode_escape")})
        http.post("/v1/load_lora_adapter", json={"lora_name": forged, "lora_path": forged})
        http.post("/v1/completions", json={"model": forged, "prompt": "a", "user": forged})
        wait_until(lambda: len(lines_of(served)) >= 6)
        events = [json.loads(line) for line in lines_of(served)]
        assert {event["event"] for event in events} == {"audit", "request"}
        assert "\x1b" not in served.text


def test_a_generation_is_told_in_one_line(start_server: StartServer, adapters_dir: Path) -> None:
    with capture_logs() as captured, start_server(adapter_dir=adapters_dir) as server:
        headers = {"x-request-id": "mine"}
        body = {"model": f"{BASE}:red", "prompt": "abcd", "max_tokens": 5, "n": 2, "stream": True}
        server.post("/v1/completions", body, headers=headers)
        server.complete(model="green")
        server.get("/ready")
        wait_until(lambda: len(captured) >= 2)
    requests = [event for event in captured if event["event"] == "request"]
    told = requests[0]
    durations = [told.pop(name) for name in ("duration_ms", "ttft_ms")]
    assert durations == sorted(durations, reverse=True)
    assert told == {
        "event": "request",
        "log_level": "info",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "model": "red",
        "version": 1,
        "queue_ms": QUEUE_S * 1000,
        "num_prompt_tokens": 4,
        "num_cached_tokens": told["num_cached_tokens"],
        "num_output_tokens": 10,
        "finish_reasons": ["length", "length"],
    }
    assert requests[1]["code"] == "model_not_found"
    assert len(requests) == 2  # a probe that succeeds says nothing


def raised() -> ValueError:
    try:
        try:
            {}[CANARY]
        except KeyError as error:
            raise ValueError(CANARY) from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("is_terminal", [False, True])
def test_an_exception_is_told_without_its_message(is_terminal: bool) -> None:
    event: Any = {"event": "it failed", "level": "error", "exc_info": raised()}
    for processor in logs.rendering_processors(is_terminal):
        event = processor(None, "error", event)
    assert "KeyError" in event
    assert "ValueError" in event
    assert "test_logs.py" in event
    assert CANARY not in event


def test_so_is_one_that_nobody_waited_for() -> None:
    with capture_logs() as captured:
        context = {"message": "Task exception was never retrieved", "exception": raised()}
        logs.log_loop_error(asyncio.new_event_loop(), context)
    assert captured[0]["what"] == "Task exception was never retrieved"


def test_a_terminal_is_not_told_to_do_anything() -> None:
    event: Any = {"event": "a\nb", "level": "info", "path": "x\x1b]0;y\x07\r\nz\u202e"}
    for processor in logs.rendering_processors(is_terminal=True):
        event = processor(None, "info", event)
    assert re.sub(r"\x1b\[\d*m", "", event).isprintable()


def test_lines_of_libraries_look_like_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    logs.configure_logging()
    root.error("Exception in\nASGI application", exc_info=raised())
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "Exception in\nASGI application"
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert CANARY not in str(line)
