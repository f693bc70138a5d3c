"""How does a server hold up under streams to many adapters at once?

    locust -f benchmarks/locustfile.py --headless -u 16 -r 8 -t 30s --host http://127.0.0.1:8000

Each user streams one chat completion after another, from a weighted mix of the server's models.
Beside the whole request (POST), each model gets rows of its own for TTFT and ITL (milliseconds)
and for tokens/s (of one stream; the columns then hold tokens per second, not milliseconds).
Only servers on this machine are tested: a load test is not for other people's servers.

Owns: the locust user, and what is reported. Does not know: the mix (`workload.py`).
"""

import ipaddress
import random
import sys
import time
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from locust import HttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

# `locust -f` makes this file's folder importable, not the one above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.workload import Mix, make_mix, parse_weights
from motet.bench.sse import Stream, StreamError, read_stream

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 120

_rng = random.Random()


class ChatUser(HttpUser):
    """Streams chat completions back to back, as one client of the server."""

    wait_time = constant(0)

    # Set once, before the first user starts.
    mix: ClassVar[Mix]
    headers: ClassVar[dict[str, str]]
    max_tokens: ClassVar[int]

    @task
    def chat(self) -> None:
        model, prompt = self.mix.draw(_rng)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        start_s = time.perf_counter()
        with self.client.post(
            "/v1/chat/completions",
            json=body,
            headers=self.headers,
            name=model,
            stream=True,
            catch_response=True,
            timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S),
        ) as response:
            if response.error is not None:
                response.failure(response.error)
                return
            if response.status_code != requests.codes.ok:
                response.failure(f"HTTP {response.status_code}: {response.text[:300]}")
                return
            try:
                # Larger pieces would wait in the client until they are full, and hide the times.
                stream = read_stream(response.iter_lines(chunk_size=1), start_s)
            except (StreamError, requests.RequestException) as error:
                response.failure(error)
                return
            # Locust's own figures for a streamed response end at the headers.
            response.request_meta["response_time"] = stream.total_s * 1e3
            response.request_meta["response_length"] = stream.num_output_tokens
        self._report(model, stream)

    def _report(self, model: str, stream: Stream) -> None:
        self._row("TTFT", model, stream.ttft_s * 1e3)
        for gap_s in stream.itl_s:
            self._row("ITL", model, gap_s * 1e3)
        self._row("tokens/s", model, stream.num_output_tokens / stream.total_s)

    def _row(self, kind: str, model: str, value: float) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=model,
            response_time=value,
            response_length=0,
            exception=None,
            context={},
        )


def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--mix",
        default="",
        metavar="NAME=WEIGHT,...",
        help="models to ask and their shares of the requests; all that the server has, evenly, "
        "if it is not given",
    )
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer [tokens]")
    parser.add_argument(
        "--api-key",
        default="",
        env_var="MOTET_API_KEY",
        is_secret=True,
        include_in_web_ui=False,
        help="key that the server asks for",
    )


def _prepare(environment: Environment, **_: Any) -> None:
    """Check the target, ask it for its models, and settle the mix. Ends the run if it cannot."""
    options = environment.parsed_options
    assert options is not None
    host = (environment.host or "").rstrip("/")
    if not _is_loopback(host):
        sys.exit(
            f"--host is {host or 'missing'}: this load test only runs against this machine, such "
            "as --host http://127.0.0.1:8000."
        )
    ChatUser.headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    ChatUser.max_tokens = options.max_tokens
    try:
        ChatUser.mix = make_mix(_served_models(host), parse_weights(options.mix))
    except (ValueError, requests.RequestException) as error:
        sys.exit(f"Cannot start the load test: {error}")


def _summarise(environment: Environment, **_: Any) -> None:
    """Print what the server generated in all; a run in which no stream ended has failed."""
    posts = [entry for (_, kind), entry in environment.stats.entries.items() if kind == "POST"]
    num_tokens = sum(entry.total_content_length for entry in posts)
    if num_tokens == 0:
        print("No stream came to its end.")
        environment.process_exit_code = 1
        return
    total = environment.stats.total
    elapsed_s = (total.last_request_timestamp or total.start_time) - total.start_time
    print(
        f"All streams together: {num_tokens / elapsed_s:.1f} output tokens/s "
        f"({num_tokens} tokens of {sum(entry.num_requests for entry in posts)} streams "
        f"in {elapsed_s:.1f} s)"
    )


def _served_models(host: str) -> list[str]:
    response = requests.get(
        f"{host}/v1/models", headers=ChatUser.headers, timeout=_CONNECT_TIMEOUT_S
    )
    if response.status_code == requests.codes.unauthorized:
        raise ValueError("the server refused the key: give it as --api-key or MOTET_API_KEY.")
    response.raise_for_status()
    return [model["id"] for model in response.json()["data"]]


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


for _hook, _listener in (
    (events.init_command_line_parser, _add_options),
    (events.init, _prepare),
    (events.quitting, _summarise),
):
    _hook.add_listener(_listener)  # type: ignore[no-untyped-call]  # it has no annotations
