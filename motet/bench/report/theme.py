"""The colours of a report, in light and in dark.

Owns: each colour's name and its two values. All hues are told apart by the colour-blind (after
M. Okabe and K. Ito, "Color Universal Design", 2008); lines differ in their dashes too.
Does not know: plots and pages.

Plots are drawn in the light colours, and `svg.py` puts a CSS custom property in place of each, so
no two names may have the same light value.
"""

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "page": "#f5f7f9",
    "card": "#fefefe",
    "text": "#1b1f24",
    "muted": "#57606a",
    "grid": "#dfe3e8",
    "run-a": "#0072b2",
    "run-b": "#d55e00",
    "refused": "#a8327e",
    "contrast": "#007d5b",
    "kv": "#0171b0",
    "adapters": "#e69f00",
    "cached": "#7fbfe6",
    "free": "#e4e8ec",
}
DARK: Mapping[str, str] = {
    "page": "#0d1117",
    "card": "#161b22",
    "text": "#e6edf3",
    "muted": "#9aa4af",
    "grid": "#2c333c",
    "run-a": "#5ab4f0",
    "run-b": "#ff9b45",
    "refused": "#f08cc8",
    "contrast": "#3fcf9f",
    "kv": "#3d9be0",
    "adapters": "#e0a030",
    "cached": "#1d5580",
    "free": "#2a313a",
}

RUN_COLOURS = ("run-a", "run-b")
RUN_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("solid", (0, (5, 2)))


def custom_properties(colours: Mapping[str, str]) -> str:
    """CSS declarations of these colours, each as a custom property of its name."""
    return "".join(f"--{name}: {value};" for name, value in colours.items())
