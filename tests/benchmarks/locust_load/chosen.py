"""Options as locust would have read them."""

from argparse import Namespace
from typing import Any

from locust.argument_parser import LocustArgumentParser

from benchmarks.locust_load.options import Settings, add_options, read_settings


def options(*arguments: str) -> dict[str, Any]:
    parser = LocustArgumentParser()
    add_options(parser)
    chosen = parser.parse_args([*arguments], namespace=Namespace(host="http://127.0.0.1:8000/"))
    return vars(chosen)


def settings(*arguments: str) -> Settings:
    return read_settings(options(*arguments))
