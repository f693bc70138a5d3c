"""How does a server hold up under load on many adapters at once?

    locust -f benchmarks/locustfile.py --headless -u 16 -r 8 -t 30s --host http://127.0.0.1:8000
    locust -f benchmarks/locustfile.py --headless --host http://127.0.0.1:8000 \\
        --workload zipf --param rate_per_s=4 --param duration_s=60 --loop open --processes 2 \\
        --ttft-slo 2 --min-attainment 0.95

Without `--headless` it is a web page with the same options. Beside the whole request (POST), each
group of adapters gets rows of its own for TTFT and ITL (milliseconds), for tokens/s (of one stream;
the columns then hold tokens per second, not milliseconds) and for requests that were refused. Only
servers on this machine are tested: a load test is not for other people's servers.

Owns: what locust looks for in its file. Does not know: everything else (`locust_load`).
"""

import sys
from pathlib import Path

from locust import events

# `locust -f` makes this file's folder importable, not the one above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.locust_load.options import add_options
from benchmarks.locust_load.session import start_session
from benchmarks.locust_load.users import LoadUser

__all__ = ["LoadUser"]

for _hook, _listener in (
    (events.init_command_line_parser, add_options),
    (events.init, start_session),
):
    _hook.add_listener(_listener)  # type: ignore[no-untyped-call]  # it has no annotations
