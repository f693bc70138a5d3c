"""What is no workload is refused by the line at fault."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from motet.bench.workload import encode_workload, read_workload
from tests.bench.work import work, workload_of


def write(path: Path, *changes: dict[str, Any]) -> Path:
    """A file of two requests, the second of which is changed."""
    head, first, second = encode_workload(workload_of([work(0, "a"), work(1, "b")])).splitlines()
    for change in changes:
        second = msgspec.json.encode({**msgspec.json.decode(second), **change})
    path.write_bytes(b"\n".join([head, first, second]))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "w.jsonl", {"after": 0, "num_prefix_tokens": 4})
    assert [each.after for each in read_workload(path).requests] == [None, 0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"index": 0}, "index is 0: expected 1"),
        ({"index": 7}, "index is 7: expected 1"),
        ({"arrival_s": -1.0}, "arrival_s"),
        ({"after": 1}, "after is 1"),
        ({"after": -1}, "after"),
        ({"num_prompt_tokens": 0}, "num_prompt_tokens"),
        ({"num_prompt_tokens": 10**12}, "num_prompt_tokens"),
        ({"num_output_tokens": 0}, "num_output_tokens"),
        ({"num_prefix_tokens": 5}, "num_prefix_tokens is 5: expected at most the 4"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "w.jsonl", change)
    with pytest.raises(ValueError, match=f"line 3: .*{complaint}"):
        read_workload(path)


def test_requests_are_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(encode_workload(workload_of([work(0, arrival_s=2.0), work(1)])))
    with pytest.raises(ValueError, match="line 3: arrival_s is 0, before that of the last"):
        read_workload(path)


def test_a_workload_has_requests(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(encode_workload(workload_of([])))
    with pytest.raises(ValueError, match="has no requests"):
        read_workload(path)
