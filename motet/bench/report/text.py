"""Numbers, times and foreign names, as a reader of the report sees them.

Owns: how many digits and which unit a figure has, and what of a foreign text is shown.
Does not know: HTML; whoever puts text into a page escapes it.
"""

NOTHING = "\N{EN DASH}"  # a figure that cannot be told


def clean(text: str, max_chars: int) -> str:
    """A text from a server or a workload, cut to a length and without invisible characters.

    Control characters cannot stand in SVG, and marks that turn the direction of writing would let a
    name show as another one.
    """
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= max_chars else shown[: max_chars - 1] + "…"


def number(value: float | None) -> str:
    """A number with three digits that count, or whole and with commas from 100 on."""
    if value is None:
        return NOTHING
    if abs(value) >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A time: 35 ms, 1.25 s, 7 min 5 s."""
    if value is None:
        return NOTHING
    if value < 0.9995:
        return f"{number(value * 1000)} ms"
    if value < 300:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float | None) -> str:
    """A share: 0.875 is 87.5 %."""
    return NOTHING if share is None else f"{share * 100:.1f} %"


def index(value: float | None) -> str:
    """An index between 0 and 1."""
    return NOTHING if value is None else f"{value:.3f}"
