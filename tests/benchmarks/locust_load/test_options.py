"""What is chosen, on the command line or in the form, is checked."""

import pytest

from benchmarks.locust_load.options import MIX, read_settings
from tests.benchmarks.locust_load.chosen import options, settings


def test_the_command_line_is_read() -> None:
    chosen = settings(
        *("--workload", "zipf", "--param", "rate_per_s=2", "--param", "prompt_tokens=8,64"),
        *("--loop", "open", "--shape", "spike", "--shape-time", "1m30s", "--peak", "3", "--repeat"),
        *("--tenant-key", "acme=ACME_KEY"),
    )
    assert chosen.host == "http://127.0.0.1:8000"
    assert chosen.parameters == {"rate_per_s": "2", "prompt_tokens": "8,64"}
    assert chosen.tenant_keys == {"acme": "ACME_KEY"}
    assert chosen.is_open_loop
    assert chosen.repeats
    assert chosen.shape is not None
    assert chosen.shape.factor_at(45.0) == 3
    assert chosen.shape.factor_at(90.1) is None


def test_the_defaults_are_a_mix_in_a_closed_loop() -> None:
    chosen = settings()
    assert chosen.workload == MIX
    assert not chosen.is_open_loop
    assert chosen.shape is None
    assert chosen.model_template is None
    assert chosen.parameters == {}


def test_the_form_sends_texts() -> None:
    form = {
        "workload": "zipf",
        "param": "rate_per_s=2  duration_s=5",
        "ttft_slo": "1.5",
        "repeat": "false",
        "seed": "7",
    }
    chosen = read_settings({**options("--repeat"), **form})
    assert chosen.parameters == {"rate_per_s": "2", "duration_s": "5"}
    assert chosen.ttft_slo_s == 1.5
    assert chosen.seed == 7
    assert not chosen.repeats


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"host": "http://192.0.2.7:8000"}, "only runs against this machine"),
        ({"host": "http://127.0.0.1.example.com"}, "only runs against this machine"),
        ({"host": "http://127.0.0.1@example.com"}, "only runs against this machine"),
        ({"host": "ftp://127.0.0.1"}, "only runs against this machine"),
        ({"host": None}, "--host is missing"),
        ({"loop": "open"}, "no times of arrival"),
        ({"workload": "nope"}, "--workload is 'nope'"),
        ({"param": "rate"}, "--param 'rate'"),
        ({"param": ["a=1", "a=2"]}, "each name once"),
        ({"min_attainment": "95"}, "from 0 on up to 1"),
        ({"ttft_slo": ""}, "--ttft-slo is ''"),
        ({"think_time": "nan"}, "--think-time"),
        ({"seed": "-1"}, "--seed"),
        ({"shape_time": "soon"}, "--shape-time is 'soon'"),
        ({"shape": "ramp", "peak": "0"}, "positive"),
    ],
)
def test_what_cannot_be_says_what_was_expected(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_settings({**options(), **changes})


@pytest.mark.parametrize("host", ["http://localhost:1", "http://[::1]:1", "https://127.3.2.1"])
def test_this_machine_has_several_names(host: str) -> None:
    assert read_settings({**options(), "host": host}).host == host
