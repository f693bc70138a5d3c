"""`motet top`: what a frame shows, and what happens when the server is not there."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from motet.core.messages import AdapterMemory, MemoryReport
from motet.server import top as top_module
from motet.server.memory_json import memory_json
from motet.server.top_parts import divide, human_bytes
from motet.server.top_view import Sample, frame
from tests.server.conftest import StartServer
from tests.server.stats import some_stats
from tests.server.test_cli import motet
from tests.server.test_memory import ENGINE

URL = "http://127.0.0.1:8000"


def memory(num_adapters: int, **stats: Any) -> dict[str, Any]:
    adapters = [
        AdapterMemory(
            digest=f"{index:064}",
            device_state="resident" if index else "loading",
            num_pages=300 - 2 * index,
            num_prefix_pages=index,
            num_users=index % 3,
            is_pinned=index == 1,
            host_bytes=1 << 20,
        )
        for index in range(num_adapters)
    ]
    defaults: dict[str, Any] = {
        "num_pages_total": 1000,
        "num_pages_free": 400,
        "num_pages_cached": 300,
        "num_pages_cached_prefix": 100,
        "num_pages_kv": 200,
        "num_pages_adapters_in_use": 100,
        "num_pages_pinned": 25,
        "adapter_fill": 0.97,
        "kv_fill": 0.5,
        "host_bytes_budget": 4 << 30,
        "host_bytes_used": 1 << 30,
    }
    report = MemoryReport("id", some_stats(**{**defaults, **stats}), 0, adapters)
    return memory_json(
        report,
        ENGINE,
        policy="fair+slo",
        num_names=10_000,
        names_of=lambda digest: [f"customer-{int(digest)}"],
    )


def lines(
    sample: Sample, previous: Sample | None = None, width: int = 80, height: int = 24, **more: Any
) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(frame(sample, previous, url=URL, height=height, **more))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_frame_fits_the_terminal_and_shows_every_use_in_its_share(width: int) -> None:
    shown = lines(Sample(memory(200), 0.0), width=width)
    assert len(shown) <= 24
    assert max(cell_len(line) for line in shown) <= width
    [bar] = [line for line in shown if "▒" in line and "·" in line and " " not in line]
    assert len(bar) == width
    shares = {"█": 200, "▓": 75, "#": 25, "▒": 100, "░": 200, "·": 400}
    for mark, num_pages in shares.items():
        assert abs(bar.count(mark) - width * num_pages / 1000) <= 6
    text = "\n".join(shown)
    for entry in ("KV 200", "adapters in use 75", "pinned 25", "cached prefixes 100"):
        assert entry in text
    for entry in ("idle adapters 200", "free 400", "1.0 GiB of 4.0 GiB", "10,000 named", "97 %"):
        assert entry in text


@pytest.mark.parametrize("height", [20, 24, 50])
def test_as_many_adapters_as_fit_and_a_word_on_the_rest(height: int) -> None:
    shown = lines(Sample(memory(100), 0.0), height=height)
    assert len(shown) <= height
    num_rows = sum("customer-" in line for line in shown)
    assert num_rows > 0
    assert shown[-1] == f"and {100 - num_rows} more"
    assert re.search(r"customer-0 +loading +300 +0 +0 +1 MiB", "\n".join(shown))
    few = lines(Sample(memory(2), 0.0), height=height)
    assert "more" not in few[-1]
    assert re.search(r"customer-1 +resident, pinned +298 ", few[-1])


def test_rates_are_what_changed_since_the_frame_before() -> None:
    counters = {
        "num_prompt_tokens": 1000,
        "num_output_tokens": 500,
        "num_adapter_loads": 10,
        "num_adapter_evictions": 4,
        "num_prefix_lookup_tokens": 100,
        "num_prefix_hit_tokens": 50,
        "num_adapter_hits": 10,
        "num_adapter_misses": 10,
        "num_refusals": 1200,
    }
    later = {
        **counters,
        "num_prompt_tokens": 3000,
        "num_output_tokens": 600,
        "num_adapter_loads": 11,
        "num_prefix_lookup_tokens": 200,
        "num_prefix_hit_tokens": 125,
        "num_adapter_hits": 19,
        "num_adapter_misses": 11,
        "num_refusals": 1203,
    }
    before = Sample(memory(1, **counters), 10.0)
    after = Sample(memory(1, **later), 12.0)
    text = "\n".join(lines(after, before))
    rates = "prompt tokens 1,000.0, output tokens 50.0, loads 0.5, evictions 0.0"
    assert rates in text
    assert "Policy fair+slo, refused 1,203 (1.5 per s)" in text
    assert "prefix 75 % (ever 62 %), adapters 90 % (ever 63 %)" in text
    # Without a frame before, or after a restart of the engine, there is nothing to compare with.
    for previous in (None, Sample(memory(1, **later), 9.0)):
        text = "\n".join(lines(before, previous))
        assert "prompt tokens -, " in text
        assert "refused 1,200 (- per s)" in text
        assert "prefix - (ever 50 %)" in text


def test_an_idle_server_has_a_frame_too() -> None:
    empty = dict.fromkeys(("num_pages_cached", "num_pages_kv", "host_bytes_used"), 0)
    shown = "\n".join(lines(Sample(memory(0, **empty), 0.0)))
    assert "No adapter is on the device" in shown
    assert "(ever -)" in shown


def test_trouble_is_shown_over_the_last_that_was_known() -> None:
    text = "\n".join(lines(Sample(memory(1), 0.0), trouble="no answer from there"))
    assert "no answer from there" in text
    assert "customer-0" in text


def test_a_frame_changes_nothing() -> None:
    payload = memory(3)
    kept = copy.deepcopy(payload)
    lines(Sample(payload, 0.0))
    assert payload == kept


def test_what_is_not_nothing_is_seen() -> None:
    assert divide(10, [1, 0, 999]) == [1, 0, 9]
    assert divide(10, [1, 1]) == [5, 5]
    assert divide(10, [0, 0]) == [0, 0]
    assert sum(divide(80, [3, 3, 3, 1, 5])) == 80


def test_sizes_for_people() -> None:
    sizes = [0, 1023, 1024, 5 << 20, 3 << 29, 1 << 41]
    shown = ["0 B", "1023 B", "1 KiB", "5 MiB", "1.5 GiB", "2048.0 GiB"]
    assert [human_bytes(size) for size in sizes] == shown


def test_one_look(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir, admin_key="admin", api_key="api") as server:
        headers = {"Authorization": "Bearer api"}
        body = {"model": "red", "prompt": "abc", "max_tokens": 1}
        assert server.post("/v1/completions", body, headers=headers).status_code == 200
        where = ("--url", server.url, "--admin-key")
        status, output = motet("top", "--once", *where, "admin")
        assert status == 0
        assert re.search(r"red +resident ", output)
        status, output = motet("top", "--once", *where, "api")
        assert status == 1
        assert "admin key" in output


def test_no_server_is_a_plain_error() -> None:
    status, output = motet("top", "--url", "http://127.0.0.1:9")
    assert status == 1
    assert "Is `motet serve` running there?" in output


def test_a_server_that_goes_is_waited_for_and_ctrl_c_ends_it(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two looks at a server, two at where it was, and then Ctrl-C."""
    troubles: list[str | None] = []
    real_frame = frame

    def noted(*arguments: Any, trouble: str | None = None, **more: Any) -> Any:
        troubles.append(trouble)
        return real_frame(*arguments, trouble=trouble, **more)

    with start_server() as server:
        addresses = [server.url, server.url, "http://127.0.0.1:9", "http://127.0.0.1:9"]
        real_sample = top_module._sample

        def sample(_url: str, key: str | None) -> Sample:
            if not addresses:
                raise KeyboardInterrupt
            return real_sample(addresses.pop(0), key)

        monkeypatch.setattr(top_module, "frame", noted)
        monkeypatch.setattr(top_module, "_sample", sample)
        status, output = motet("top", "--interval", "0.1", "--url", server.url)
    assert status == 0
    assert "Traceback" not in output
    assert [each is None for each in troubles] == [True, True, False, False]
