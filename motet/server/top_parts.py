"""What the frames of `motet top` are put together from: bars, lines, and figures for people.

Owns: how an amount, a share and a size look in a terminal.
Does not know: what they are amounts of (`top_view.py`).
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

NOTHING = "-"


class Bar:
    """A line as wide as there is room, divided as its parts are; each that is not empty shows.

    Args:
        parts: (amount, mark, style) from left to right.
    """

    def __init__(self, parts: list[tuple[int, str, str]]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text(no_wrap=True)
        widths = divide(options.max_width, [amount for amount, _, _ in self._parts])
        for (_amount, mark, style), num_cells in zip(self._parts, widths, strict=True):
            text.append(mark * num_cells, style)
        yield text


def divide(width: int, amounts: list[int]) -> list[int]:
    """`width` cells divided as `amounts` are, with one cell at least for what is not nothing."""
    total = sum(amounts)
    if total == 0:
        return [0] * len(amounts)
    cells = [max(1, width * amount // total) if amount else 0 for amount in amounts]
    # What rounding left, and what the small ones were given, is the largest one's.
    cells[amounts.index(max(amounts))] += width - sum(cells)
    return cells


def line(*parts: str | tuple[str, str]) -> Text:
    """Parts of text and (text, style) as one line, cut off where the terminal ends."""
    text = Text.assemble(*parts)
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def percent(ratio: float | None) -> str:
    """A ratio as people read it; a dash if there is none."""
    return NOTHING if ratio is None else f"{100 * ratio:.0f} %"


def human_bytes(num_bytes: int) -> str:
    """A size in the unit that suits it."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
