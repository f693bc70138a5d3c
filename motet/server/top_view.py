"""A frame of `motet top`: from answers of GET /admin/v1/memory to what a terminal shows.

Owns: how it looks. Everything here is a pure function of its arguments.
Does not know: where the answers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from motet.server.top_parts import NOTHING, Bar, human_bytes, line, percent

Json = dict[str, Any]

# Each use has a mark besides its colour, for terminals and eyes that show no colours.
_USES = (
    ("KV", "█", "blue"),
    ("adapters in use", "▓", "green"),
    ("pinned", "#", "magenta"),
    ("cached prefixes", "▒", "cyan"),
    ("idle adapters", "░", "yellow"),
    ("free", "·", "dim"),
)
_TABLE_HEADER_LINES = 1
_SPARE_LINES = 1  # for the prompt, once the frame has been printed


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer, and when it came, in monotonic time."""

    memory: Json
    at_s: float


def frame(
    sample: Sample,
    previous: Sample | None,
    *,
    url: str,
    height: int,
    trouble: str | None = None,
) -> RenderableType:
    """What there is to see now.

    Args:
        previous: the sample before, for rates; None if there is none.
        height: lines of the terminal; as many adapters are shown as fit.
        trouble: why there is nothing newer than `sample`; None if it is new.
    """
    memory = sample.memory
    top: list[RenderableType] = [
        _title(memory, url),
        _trouble_line(trouble),
        _policy_line(sample, previous),
        _pages_line(memory),
        Bar(_uses(memory)),
        *_legend(memory),
        _host_line(memory),
        Bar(_host_parts(memory)),
        _fill_line(memory),
        _rates_line(sample, previous),
        _hits_line(sample, previous),
        Text(),
    ]
    num_rows = max(0, height - len(top) - _TABLE_HEADER_LINES - _SPARE_LINES)
    return Group(*top, _adapters(memory["adapters"], num_rows))


def _title(memory: Json, url: str) -> Text:
    requests = memory["requests"]
    return line(
        ("Motet", "bold"),
        f" {url}   running ",
        (f"{requests['running']:,}", "bold"),
        "  waiting ",
        (f"{requests['waiting']:,}", "bold"),
        f"  preempted {requests['preemptions']:,}",
    )


def _trouble_line(trouble: str | None) -> Text:
    return Text() if trouble is None else line((trouble, "bold red"))


def _policy_line(sample: Sample, previous: Sample | None) -> Text:
    requests = sample.memory["requests"]
    return line(
        ("Policy", "bold"),
        f" {requests['policy']}, refused {requests['refusals']:,} "
        f"({_per_second(sample, previous, 'requests', 'refusals')} per s)",
    )


def _pages_line(memory: Json) -> Text:
    pages = memory["pages"]
    size = human_bytes(pages["size_bytes"])
    return line(
        ("Pages", "bold"),
        f"  {pages['total']:,} of {size} ({pages['size_tokens']} tokens of KV)",
    )


def _uses(memory: Json) -> list[tuple[int, str, str]]:
    pages = memory["pages"]
    amounts = (
        pages["kv"],
        pages["adapters_in_use"] - pages["pinned"],
        pages["pinned"],
        pages["cached"]["prefix"],
        pages["cached"]["adapters"],
        pages["free"],
    )
    return [(amount, mark, style) for amount, (_, mark, style) in zip(amounts, _USES, strict=True)]


def _legend(memory: Json) -> list[Text]:
    """What each mark stands for, in two lines that fit 80 columns."""
    entries = [
        line((mark, style), f" {name} ", (f"{amount:,}", "bold"))
        for (name, _, _), (amount, mark, style) in zip(_USES, _uses(memory), strict=True)
    ]
    half = len(entries) // 2
    return [Text("  ").join(part) for part in (entries[:half], entries[half:])]


def _host_line(memory: Json) -> Text:
    host, disk = memory["tiers"]["host"], memory["tiers"]["disk"]
    return line(
        ("Host", "bold"),
        f"   {human_bytes(host['bytes_used'])} of {human_bytes(host['bytes_budget'])}, "
        f"{host['adapters']:,} adapters   ",
        ("Disk", "bold"),
        f"  {disk['named']:,} named, {disk['known']:,} read",
    )


def _host_parts(memory: Json) -> list[tuple[int, str, str]]:
    host = memory["tiers"]["host"]
    num_free = max(0, host["bytes_budget"] - host["bytes_used"])
    return [(host["bytes_used"], "█", "green"), (num_free, "·", "dim")]


def _fill_line(memory: Json) -> Text:
    fill = memory["fragmentation"]
    return line(
        ("Fill", "bold"),
        f"   adapters' pages {percent(fill['adapter_fill'])}, KV pages {percent(fill['kv_fill'])}",
    )


def _rates_line(sample: Sample, previous: Sample | None) -> Text:
    def per_second(section: str, counter: str) -> str:
        return _per_second(sample, previous, section, counter)

    return line(
        ("Per s", "bold"),
        f"  prompt tokens {per_second('work', 'prompt_tokens')}, "
        f"output tokens {per_second('work', 'output_tokens')}, "
        f"loads {per_second('adapter_counters', 'loads')}, "
        f"evictions {per_second('adapter_counters', 'evictions')}",
    )


def _hits_line(sample: Sample, previous: Sample | None) -> Text:
    prefix, adapters = sample.memory["prefix_cache"], sample.memory["adapter_counters"]
    found = _change(sample, previous, "prefix_cache", "hit_tokens")
    sought = _change(sample, previous, "prefix_cache", "lookup_tokens")
    hits = _change(sample, previous, "adapter_counters", "hits")
    misses = _change(sample, previous, "adapter_counters", "misses")
    queued = None if hits is None or misses is None else hits + misses
    return line(
        ("Hits", "bold"),
        f"   prefix {_share(found, sought)} (ever {percent(prefix['hit_rate'])}), "
        f"adapters {_share(hits, queued)} (ever {percent(adapters['hit_rate'])})",
    )


def _per_second(sample: Sample, previous: Sample | None, section: str, counter: str) -> str:
    change = _change(sample, previous, section, counter)
    if change is None or previous is None:
        return NOTHING
    return f"{change / (sample.at_s - previous.at_s):,.1f}"


def _change(sample: Sample, previous: Sample | None, section: str, counter: str) -> int | None:
    """How far a counter went since the frame before; None if it began anew or there was none."""
    if previous is None:
        return None
    change: int = sample.memory[section][counter] - previous.memory[section][counter]
    return change if change >= 0 else None


def _share(part: int | None, whole: int | None) -> str:
    return percent(None if part is None or not whole else part / whole)


def _adapters(adapters: list[Json], num_rows: int) -> RenderableType:
    if not adapters:
        return Text("No adapter is on the device or in host memory.", "dim")
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("adapter", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("where", no_wrap=True)
    for heading in ("pages", "prefix", "users", "host"):
        table.add_column(heading, justify="right", no_wrap=True)
    # One line says what is left out, if anything is.
    num_shown = num_rows if len(adapters) <= num_rows else max(0, num_rows - 1)
    for adapter in adapters[:num_shown]:
        table.add_row(*_adapter_row(adapter))
    num_more = len(adapters) - num_shown
    return Group(table, Text(f"and {num_more:,} more", "dim")) if num_more > 0 else table


def _adapter_row(adapter: Json) -> list[Text]:
    names = ", ".join(adapter["names"]) or adapter["digest"][:12]
    where = adapter["device_state"] or "host"
    return [
        Text(names),
        Text(f"{where}, pinned" if adapter["pinned"] else where),
        Text(f"{adapter['pages']:,}"),
        Text(f"{adapter['prefix_pages']:,}"),
        Text(f"{adapter['users']:,}"),
        Text(human_bytes(adapter["host_bytes"])),
    ]
