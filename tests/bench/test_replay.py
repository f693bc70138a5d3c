"""Traces are read as they are found, and bad lines are refused by number."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.bench.named import make_workload
from motet.bench.trace_file import read_trace
from motet.bench.workload import Workload
from tests.bench.workloads import check, write_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109

2023-11-16 18:15:51.2224670,879,55
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
ARENA = "\n".join(
    json.dumps({"tstamp": 1690000000 + at_s, "model": model, "prompt_len": 9, "output_len": 7})
    for at_s, model in ((3.25, "vicuna-13b"), (1.0, "koala-13b"), (2.5, "vicuna-13b"))
)


def replay(tmp_path: Path, content: str, **parameters: Any) -> Workload:
    path = tmp_path / "trace"
    path.write_text(content)
    workload = make_workload("replay", {"path": str(path), **parameters}, 3)
    check(workload)
    return workload


def test_azures_trace(tmp_path: Path) -> None:
    requests = replay(tmp_path, AZURE).requests
    assert [request.arrival_s for request in requests] == pytest.approx([0, 4.314579, 4.541877])
    assert [request.num_prompt_tokens for request in requests] == [374, 396, 879]
    assert [request.num_output_tokens for request in requests] == [44, 109, 55]
    assert [request.adapter for request in requests] == [None] * 3


def test_requests_that_name_no_adapter_can_be_spread_over_some(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},5,5" for i in range(1000))
    workload = replay(
        tmp_path, "time,input_len,output_len\n" + rows, num_adapters=4, rank_cycle="8,16"
    )
    assert set(workload.adapters) == {f"adapter-{i}" for i in range(4)}
    first = sum(request.adapter == "adapter-0" for request in workload.requests)
    assert 400 < first < 560  # 1 / (1 + 1/2 + 1/3 + 1/4) of them


def test_burst_gpts_trace_without_what_failed(tmp_path: Path) -> None:
    requests = replay(tmp_path, BURST_GPT).requests
    assert [(r.arrival_s, r.adapter) for r in requests] == [(0.0, "ChatGPT"), (113.0, "GPT-4")]


def test_arenas_trace_in_the_order_of_time(tmp_path: Path) -> None:
    workload = replay(tmp_path, ARENA, rank_cycle="64,8")
    asked = [(request.arrival_s, request.adapter) for request in workload.requests]
    assert asked == [(0.0, "koala-13b"), (1.5, "vicuna-13b"), (2.25, "vicuna-13b")]
    assert workload.parameters["ranks"] == {"koala-13b": 64, "vicuna-13b": 8}


def test_times_of_several_zones_are_one_time(tmp_path: Path) -> None:
    content = (
        "timestamp,prompt_tokens,output_tokens\n"
        "2024-05-10T02:00:01+02:00,1,1\n"
        "2024-05-10 00:00:00.5,2,1\n"
        "2024-05-10T00:00:02Z,3,1\n"
    )
    requests = replay(tmp_path, content).requests
    assert [(r.arrival_s, r.num_prompt_tokens) for r in requests] == [(0, 2), (0.5, 1), (1.5, 3)]


def test_times_are_stretched_to_a_duration(tmp_path: Path) -> None:
    requests = replay(tmp_path, BURST_GPT, duration_s=11.3).requests
    assert [request.arrival_s for request in requests] == [0.0, 11.3]


def test_all_at_one_moment_stay_there(tmp_path: Path) -> None:
    content = "time,prompt_tokens,output_tokens\n7,1,1\n7,2,2\n"
    requests = replay(tmp_path, content, duration_s=60).requests
    assert [request.arrival_s for request in requests] == [0.0, 0.0]


def test_s_loras_rules(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.csv", num_lines=3000)
    parameters = {"path": str(path), "max_output_tokens": 150, "num_requests": 600}
    workload = make_workload("slora-a10g-req-rate-real", parameters, 42)
    check(workload)
    assert len(workload.requests) == 600
    assert max(request.num_output_tokens for request in workload.requests) <= 150
    assert workload.requests[-1].arrival_s == 300
    assert set(workload.parameters["ranks"].values()) == {64, 32, 16}
    # Which are kept is left to chance, and it is not the first of them.
    assert max(r.num_prompt_tokens for r in workload.requests) > 290


def test_too_few_requests_are_refused(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.csv", num_lines=10)
    with pytest.raises(ValueError, match="has 10 requests within the limits: expected at least 11"):
        make_workload("replay", {"path": str(path), "num_requests": 11}, 1)
    with pytest.raises(ValueError, match="has 1 requests within the limits: expected at least 2"):
        make_workload("replay", {"path": str(path), "max_prompt_tokens": 1, "num_requests": 2}, 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_workload("replay", {"path": str(tmp_path / "none.csv")}, 1)


HEAD = "timestamp,adapter,prompt_tokens,output_tokens\n1,a,5,5\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "x,a,5,5\n", "line 3: the time is 'x': expected seconds, or a date and time"),
        (HEAD + "nan,a,5,5\n", "line 3: the time is 'nan': expected a finite"),
        (HEAD + "2,a,-5,5\n", "line 3: a length is '-5': expected an integer from 0"),
        (HEAD + "2,a,5.5,5\n", "line 3: a length is '5.5'"),
        (HEAD + "2,a,5,1e30\n", "line 3: a length is '1e30'"),
        (HEAD + "2,a,5,\n", "line 3: a length is ''"),
        (HEAD + "\n\n2,a,5\n", "line 5: 3 values: expected 4"),
        (HEAD + "2,a,5,5,5\n", "line 3: 5 values: expected 4"),
        (HEAD + '2,"a,5,5\n', "line 3: "),
        (HEAD + "2,a\tb,5,5\n", "line 3: an adapter is .* printable"),
        (HEAD + "2," + "a" * 300 + ",5,5\n", "line 3: an adapter is"),
        ("when,prompt_tokens,output_tokens\n1,2,3\n", "line 2: no timestamp: expected a column"),
        ("time,output_tokens\n1,2\n", "line 2: no numprompttokens: expected a column"),
        ("timestamp,prompt_tokens,output_tokens\n", "expected 1 to 5,000,000 requests"),
        ("", "expected 1 to 5,000,000 requests"),
        ('{"time": 1, "prompt_tokens": 1, "output_tokens": 1}\n{"time"', "line 2: "),
        ('{"time": true, "prompt_tokens": 1, "output_tokens": 1}', "line 1: the time is True"),
        ('{"time": 1, "prompt_tokens": [], "output_tokens": 1}', r"line 1: a length is \[\]"),
        ('{"time": 1, "prompt_tokens": true, "output_tokens": 1}', "line 1: a length is True"),
        ('{"time": 1, "prompt_tokens": 1, "output_tokens": 1, "model": 5}', "an adapter is 5"),
        ('{"time": 1}\n[1]', "line 1: no numprompttokens"),
    ],
)
def test_bad_lines_are_refused_by_number(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)


def test_what_is_not_text_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match="is no trace"):
        read_trace(path)


def test_a_mark_at_the_beginning_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("\ufeff" + HEAD, encoding="utf-8")
    assert [line.adapter for line in read_trace(path)] == ["a"]
    path.write_text("\ufeff" + '{"time": 1, "input_len": 2, "output_len": 3}', encoding="utf-8")
    assert [line.num_prompt_tokens for line in read_trace(path)] == [2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@pytest.mark.parametrize("head", [b"", HEAD.encode(), b'{"time": 1, '])
def test_whatever_a_file_holds_it_is_a_trace_or_refused(
    tmp_path: Path, head: bytes, content: bytes
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(head + content)
    refusal, lines = None, []
    try:
        lines = read_trace(path)
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or str(path) in refusal
    assert all(math.isfinite(line.at_s) and line.num_prompt_tokens >= 0 for line in lines)
