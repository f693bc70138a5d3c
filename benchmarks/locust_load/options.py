"""What a person chooses: options of the command line, which the web page's form has too.

Owns: the options and their checks, and that only this machine is ever a target.
Does not know: locust's own options (users, run time, processes), but for the host.

Keys are no options: whatever is one is shown in the form. They come from the environment.
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from locust.argument_parser import LocustArgumentParser
from locust.util.timespan import parse_timespan

from benchmarks.locust_load.shapes import SHAPE_NAMES, Shape, make_shape
from motet.bench.named import WORKLOADS

MIX = "mix"
LOOPS = ("closed", "open")

_SEED = 42  # as `motet bench` has it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A load test, as it was asked for.

    Attributes:
        host: the server's URL.
        workload: the name of a workload, or `MIX`.
        parameters: of the workload, as texts.
        seed: of the workload.
        tenant_keys: the variables of the environment that hold the keys of tenants, by tenant.
        model_template: names of models for adapters that the server does not list.
        mix: weights of the models, as text; only for the mix, as is `max_tokens`.
        max_tokens: the longest answer.
        is_open_loop: whether requests are sent at their times, whatever becomes of the others.
        think_time_s: between a user's requests, in a closed loop.
        repeats: whether a workload that is used up is drawn again.
        shape: how the load changes; None if it does not.
        ttft_slo_s: the first token is promised within.
        min_attainment: at least so many of the requests must have been kept that promise.
        max_fail_ratio: at most so many of them may fail.
    """

    host: str
    workload: str
    parameters: Mapping[str, str]
    seed: int
    tenant_keys: Mapping[str, str]
    model_template: str | None
    mix: str
    max_tokens: int
    is_open_loop: bool
    think_time_s: float
    repeats: bool
    shape: Shape | None
    ttft_slo_s: float
    min_attainment: float
    max_fail_ratio: float


def add_options(parser: LocustArgumentParser) -> None:
    """Tell locust of the options. What has choices is a menu in the form.

    They are in no group of argparse: the form would not have them.
    """
    # Locust's own defaults let everyone who reaches the machine start load tests on it.
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    parser.add_argument(
        "--workload",
        default=MIX,
        choices=[MIX, *sorted(WORKLOADS)],
        help="mix: example prompts to the models; the others: see motet bench workloads",
    )
    parser.add_argument(
        "--param",
        action="append",
        metavar="KEY=VALUE",
        help="of the workload, may be repeated; in the form several with spaces between: a=1 b=2",
    )
    parser.add_argument(
        "--loop",
        default=LOOPS[0],
        choices=LOOPS,
        help="closed: users wait for answers; open: at the workload's times, without users",
    )
    parser.add_argument(
        "--think-time", type=float, default=0.0, help="between a closed loop user's requests [s]"
    )
    parser.add_argument(
        "--repeat",
        action="store_true",
        help="draw the workload again, with the next seed, when it is used up; else the test ends",
    )
    parser.add_argument("--seed", type=int, default=_SEED, help="equal seeds: equal workloads")
    parser.add_argument(
        "--shape",
        default=SHAPE_NAMES[0],
        choices=SHAPE_NAMES,
        help="of the users' number or the open loop's rate; the test ends with it",
    )
    parser.add_argument(
        "--shape-time", default="60s", metavar="TIME", help="how long the shape takes: 90s, 2h"
    )
    parser.add_argument(
        "--peak", type=float, default=4.0, help="of ramp and spike: so many times the plain load"
    )
    parser.add_argument(
        "--ttft-slo", type=float, default=6.0, help="the first token is promised within [s]"
    )
    parser.add_argument(
        "--min-attainment",
        type=float,
        default=0.0,
        help="exit 1 if a smaller share of requests had its first token in time, such as 0.95",
    )
    parser.add_argument(
        "--max-fail-ratio",
        type=float,
        default=0.0,
        help="exit 1 if a larger share of requests failed; refusals are no failures",
    )
    parser.add_argument(
        "--mix", default="", metavar="NAME=WEIGHT,...", help="models of the mix; empty: all, evenly"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=64, help="of the mix: longest answer [tokens]"
    )
    parser.add_argument(
        "--model-template",
        default="",
        metavar="NAME",
        help="of adapters not served by name: t-{index}; empty: those served, in turn",
    )
    parser.add_argument(
        "--tenant-key",
        action="append",
        metavar="TENANT=VARIABLE",
        help="names the environment variable with a tenant's key; others use MOTET_API_KEY",
    )


def read_settings(options: Mapping[str, Any]) -> Settings:
    """Check what was chosen.

    Args:
        options: by their names, with `host`; those of the form may be texts.

    Raises:
        ValueError: something cannot be, with what was expected.
    """
    workload = _choice(options, "workload", (MIX, *sorted(WORKLOADS)))
    is_open_loop = _choice(options, "loop", LOOPS) == "open"
    if workload == MIX and is_open_loop:
        raise ValueError(
            "The mix has no times of arrival: take --loop closed, or a --workload that has them."
        )
    return Settings(
        host=_loopback(options["host"] or ""),
        workload=workload,
        parameters=_pairs(options["param"], "--param", "rate_per_s=2"),
        seed=int(_number(options, "seed", math.inf)),
        tenant_keys=_pairs(options["tenant_key"], "--tenant-key", "acme=ACME_KEY"),
        model_template=options["model_template"] or None,
        mix=options["mix"],
        max_tokens=max(1, int(_number(options, "max_tokens", math.inf))),
        is_open_loop=is_open_loop,
        think_time_s=_number(options, "think_time", math.inf),
        repeats=options["repeat"] in (True, "true"),
        shape=_shape(options),
        ttft_slo_s=_number(options, "ttft_slo", math.inf),
        min_attainment=_number(options, "min_attainment", 1.0),
        max_fail_ratio=_number(options, "max_fail_ratio", 1.0),
    )


def _shape(options: Mapping[str, Any]) -> Shape | None:
    try:
        length_s = parse_timespan(options["shape_time"])
    except ValueError as error:
        raise ValueError(
            f"--shape-time is {options['shape_time']!r}: expected a time such as 90s or 1h30m."
        ) from error
    name = _choice(options, "shape", SHAPE_NAMES)
    return make_shape(name, length_s, _number(options, "peak", math.inf))


def _pairs(given: str | list[str] | None, option: str, example: str) -> dict[str, str]:
    """Names with their values, of a list, or of one text with spaces between them."""
    texts = given.split() if isinstance(given, str) else given or []
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in pairs:
            raise ValueError(
                f"{option} {text!r}: expected each name once, as name=value, such as {example}."
            )
        pairs[name] = value
    return pairs


def _choice(options: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = options[name]
    if value not in choices:
        raise ValueError(f"{_flag(name)} is {value!r}: expected one of {', '.join(choices)}.")
    return str(value)


def _number(options: Mapping[str, Any], name: str, highest: float) -> float:
    try:
        value = float(options[name])
    except ValueError:
        value = math.nan
    if not (0 <= value <= highest and math.isfinite(value)):
        bound = "" if highest == math.inf else f" up to {highest:g}"
        raise ValueError(f"{_flag(name)} is {options[name]!r}: expected a number from 0 on{bound}.")
    return value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _loopback(host: str) -> str:
    """The host without a slash at its end. A load test is not for other people's servers."""
    host = host.rstrip("/")
    if not _is_loopback(host):
        raise ValueError(
            f"--host is {host or 'missing'}: this load test only runs against this machine, such "
            "as --host http://127.0.0.1:8000."
        )
    return host


def _is_loopback(url: str) -> bool:
    if not re.match("https?://", url):
        return False
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
