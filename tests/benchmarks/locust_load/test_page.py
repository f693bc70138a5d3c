"""The web page refuses a form that cannot be done, and has the tables."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from benchmarks.locust_load.options import add_options
from benchmarks.locust_load.page import extend_page


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    monkeypatch.setattr(sys, "argv", ["locust"])  # locust reads it for the form
    events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
    environment = Environment(host="http://127.0.0.1:1")
    runner = environment.create_local_runner()
    web_ui = environment.create_web_ui("127.0.0.1", delayed_start=True)

    def check(form: Mapping[str, str]) -> None:
        raise ValueError(f"cannot do {form['workload']}")

    extend_page(environment, check, lambda: ["all is well"])
    environment.stats.get("a0", "TTFT").log(120, 0)
    assert web_ui.app is not None
    yield web_ui.app.test_client()
    runner.quit()
    events.init_command_line_parser.remove_listener(add_options)  # type: ignore[no-untyped-call]


def test_a_form_that_cannot_be_done_says_why(page: FlaskClient) -> None:
    answer: Any = page.post("/swarm", data={"workload": "nope"}).get_json()
    assert answer["success"] is False
    assert answer["message"] == "cannot do nope"


def test_the_form_has_all_options_with_their_help_and_no_keys(page: FlaskClient) -> None:
    html = page.get("/").get_data(as_text=True)
    parser = LocustArgumentParser()
    locusts_own = {action.dest for action in parser._actions}
    add_options(parser)
    ours = [action for action in parser._actions if action.dest not in locusts_own]
    assert len(ours) > 10
    for action in ours:
        assert f'"{action.dest}"' in html
        assert str(action.help).split(",")[0] in html.replace("\\u0027", "'")
    assert "api_key" not in html


def test_the_tables_come_with_the_statistics(page: FlaskClient) -> None:
    answer: Any = page.get("/stats/requests").get_json()
    groups, summary = answer["extended_stats"]
    assert [(row["group"], row["ttft_50"]) for row in groups["data"]] == [("a0", 120)]
    assert summary["data"] == [{"line": "all is well"}]
    assert answer["state"] == "ready"  # locust's own are still there
