"""`motet keys` and `motet serve` together, as processes: two listeners, one file of keys."""

import re
import signal
from pathlib import Path

import httpx2
import pytest

from tests.server.running_server import wait_until
from tests.server.some_keys import bearer
from tests.server.test_cli import motet, motet_serve


@pytest.mark.slow
def test_keys_are_made_and_revoked_while_a_server_runs(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file = ("--keys-file", str(path))
    root = motet("keys", "create", "root", "--admin", *file)[1].strip()
    user = motet("keys", "create", "user", *file)[1].strip()
    arguments = [str(model_dir), "--port", "0", "--admin-port", "0", *file]
    with motet_serve(tmp_path, *arguments) as served:
        match = re.search(r"admin +(http://127.0.0.1:\d+)", served.text)
        assert match
        admin_url = match[1]

        def status(url: str, path: str, key: str) -> int:
            return httpx2.get(url + path, headers=bearer(key)).status_code

        assert status(served.url, "/v1/models", user) == 200
        assert status(served.url, "/admin/v1/memory", root) == 404
        assert status(admin_url, "/admin/v1/memory", root) == 200
        assert status(admin_url, "/admin/v1/memory", user) == 403
        assert motet("keys", "revoke", "user", *file)[0] == 0
        wait_until(lambda: status(served.url, "/v1/models", user) == 401)
        assert user not in served.text
        assert root not in served.text + served.engine_log.read_text()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0


@pytest.mark.slow
def test_a_second_signal_ends_both_listeners_now(model_dir: Path, tmp_path: Path) -> None:
    arguments = [str(model_dir), "--port", "0", "--admin-host", f"unix:{tmp_path / 'sock'}"]
    with motet_serve(tmp_path, *arguments, env={"FAKE_STEP_S": "0.1"}) as served:
        body = {"model": model_dir.name, "prompt": "ab", "max_tokens": 400, "stream": True}
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=body) as response:
            lines = response.iter_lines()  # kept: without it the client would leave
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx2.get(f"{served.url}/ready").status_code == 503)
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(10) == 128 + signal.SIGTERM
        assert not (tmp_path / "sock").exists()
