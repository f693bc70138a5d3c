"""Makes the loop that one process plays, of what was chosen and of what the server has.

Owns: which parts a load test is put together from.
Does not know: processes, and locust's events.
"""

import os
from collections.abc import Callable

import requests

from benchmarks.locust_load.loops import ClosedLoop, Loop, OpenLoop, Send
from benchmarks.locust_load.options import MIX, Settings
from benchmarks.locust_load.served import Served, ask_served
from benchmarks.locust_load.supply import MixSupply, Share, WorkloadSupply
from benchmarks.workload import make_mix, parse_weights
from motet.bench.target import Endpoint, Target

API_KEY_VARIABLE = "MOTET_API_KEY"


def make_loop(settings: Settings, share: Share, send: Send, on_end: Callable[[], None]) -> Loop:
    """The loop of one process.

    Args:
        send: sends a request and reports on it.
        on_end: called once, when the loop has ended.

    Raises:
        ValueError: it cannot be, with what was expected.
        OSError: a file cannot be read.
    """
    api_key = os.environ.get(API_KEY_VARIABLE) or None
    try:
        served = ask_served(settings.host, api_key)
    except requests.RequestException as error:
        raise ValueError(f"the server does not say what it serves: {error}") from error
    if settings.workload == MIX:
        chats = _mix(settings, served, api_key, share)
        return ClosedLoop(chats.conversations(), send, settings.think_time_s, on_end)
    target = Target(
        url=settings.host,
        template=settings.model_template,
        api_key=api_key,
        tenant_keys=_tenant_keys(settings),
    )
    supply = WorkloadSupply(settings, target, served, share)
    if settings.is_open_loop:
        return OpenLoop(supply.requests(), supply.write, send, settings.shape, on_end)
    return ClosedLoop(supply.conversations(), send, settings.think_time_s, on_end)


def _tenant_keys(settings: Settings) -> dict[str, str]:
    keys = {}
    for tenant, variable in settings.tenant_keys.items():
        if not (key := os.environ.get(variable)):
            raise ValueError(
                f"--tenant-key {tenant}={variable}: there is nothing in the environment under that "
                "name; expected the name of a variable that holds the tenant's key."
            )
        keys[tenant] = key
    return keys


def _mix(settings: Settings, served: Served, api_key: str | None, share: Share) -> MixSupply:
    mix = make_mix(served.names, parse_weights(settings.mix))
    target = Target(url=settings.host, endpoint=Endpoint.CHAT, exact_length=False, api_key=api_key)
    return MixSupply(mix, target, settings.max_tokens, share)
