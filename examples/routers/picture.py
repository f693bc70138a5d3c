"""Draw which experts of a routed set an answer came from, token by token, as an SVG file.

Ask a running server for an answer that needs several experts, and look at where it changes over:

    python examples/routers/picture.py --model NAME --out routing.svg "1. … 2. … 3. …"

The picture is one file without scripts, readable on light and on dark ground. Pointing at a token
shows its weights.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import httpx2

# Okabe and Ito's colours, which can be told apart by those who see fewer, on both grounds. What
# has no colour of its own is grey.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a90b")
OTHERS, OTHERS_COLOUR = "others", "#8c8c8c"

TOKENS_A_ROW = 40
CELL = 24  # pixels, as all that follow
BAND_HEIGHT = 96
LABEL_HEIGHT = 92
MARGIN = 16
LEGEND_LINE = 22
MAX_LABEL_CHARS = 12

STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
.title { font: 600 14px system-ui, sans-serif; }
.legend { font: 13px system-ui, sans-serif; }
.base { stroke: #1f2328; stroke-opacity: 0.35; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .base { stroke: #e6edf3; }
}
"""


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    Attributes:
        weights: of the experts that it came from, by name; at most 1 altogether.
    """

    text: str
    weights: Mapping[str, float]


def ask(http: httpx2.Client, model: str, prompt: str, max_tokens: int) -> list[Token]:
    """The tokens of a greedy answer. Raises SystemExit with what the server says is wrong."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "return_routing": True,
    }
    response = http.post("/v1/chat/completions", json=body)
    answer: dict[str, Any] = response.json()
    if "error" in answer:
        raise SystemExit(answer["error"]["message"])
    [choice] = answer["choices"]
    return [Token(each["token"], each["experts"]) for each in choice["routing"]]


def experts_of(tokens: Sequence[Token]) -> list[str]:
    """The experts that get a colour, most used first; the others share one."""
    totals: dict[str, float] = {}
    for token in tokens:
        for name, weight in token.weights.items():
            totals[name] = totals.get(name, 0.0) + weight
    return sorted(totals, key=lambda name: -totals[name])[: len(COLOURS)]


def picture(tokens: Sequence[Token], title: str) -> str:
    """The SVG: a column for each token, split into bands as its weights are."""
    colours = dict(zip(experts_of(tokens), COLOURS, strict=False))
    rows = [tokens[start : start + TOKENS_A_ROW] for start in range(0, len(tokens), TOKENS_A_ROW)]
    top = MARGIN + 20 + LEGEND_LINE + 8
    width = 2 * MARGIN + CELL * TOKENS_A_ROW
    height = top + len(rows) * (BAND_HEIGHT + LABEL_HEIGHT) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{clean(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 10}">{clean(title)}</text>',
        *legend(tokens, colours),
    ]
    for number, row in enumerate(rows):
        y = top + number * (BAND_HEIGHT + LABEL_HEIGHT)
        for place, token in enumerate(row):
            parts += column(token, colours, MARGIN + place * CELL, y)
        base, end = y + BAND_HEIGHT, MARGIN + CELL * len(row)
        parts.append(f'<path class="base" d="M{MARGIN} {base}H{end}"/>')
    return "\n".join([*parts, "</svg>", ""])


def legend(tokens: Sequence[Token], colours: Mapping[str, str]) -> Iterator[str]:
    """A square and a name for each colour."""
    has_others = any(token.weights.keys() - colours.keys() for token in tokens)
    shown = {**colours, **({OTHERS: OTHERS_COLOUR} if has_others else {})}
    slot = (CELL * TOKENS_A_ROW) // max(len(shown), 1)
    y = MARGIN + 20
    for place, (name, colour) in enumerate(shown.items()):
        x = MARGIN + place * slot
        yield f'<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>'
        label = clean(shortened(name, slot // 8 - 2))
        yield f'<text class="legend" x="{x + 18}" y="{y + 11}">{label}</text>'


def column(token: Token, colours: Mapping[str, str], x: int, y: int) -> Iterator[str]:
    """A token's bands, from the base line up, and its text below."""
    heights = dict.fromkeys((*colours, OTHERS), 0.0)
    for name, weight in token.weights.items():
        heights[name if name in colours else OTHERS] += weight * BAND_HEIGHT
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in token.weights.items())
    yield f"<g><title>{clean(visible(token.text))}: {clean(told)}</title>"
    bottom = float(y + BAND_HEIGHT)
    for name, height in heights.items():
        if height > 0:
            bottom -= height
            colour = colours.get(name, OTHERS_COLOUR)
            yield (
                f'<rect x="{x + 1}" y="{bottom:.1f}" width="{CELL - 2}" height="{height:.1f}" '
                f'fill="{colour}"/>'
            )
    label = clean(shortened(visible(token.text), MAX_LABEL_CHARS))
    middle, below = x + CELL // 2 - 4, y + BAND_HEIGHT + 6
    yield f'<text transform="translate({middle} {below}) rotate(90)">{label}</text></g>'


def visible(text: str) -> str:
    """A token's text, with signs for what has none."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return "".join(char if char.isprintable() else "�" for char in shown)


def shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def clean(text: str) -> str:
    """Text as it may stand in XML, which has no room for control characters."""
    return escape("".join(char if char.isprintable() else "�" for char in text))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw which experts an answer came from.")
    parser.add_argument("prompt", help="what to ask")
    parser.add_argument("--model", required=True, help="a routed set of the server")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--max-tokens", type=int, default=120)
    options = parser.parse_args()
    key = os.environ.get("MOTET_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=options.url, headers=headers, timeout=300) as http:
        tokens = ask(http, options.model, options.prompt, options.max_tokens)
    title = f"{options.model}: the experts that each token came from"
    options.out.write_text(picture(tokens, title), encoding="utf-8")
    print(f"{options.out} shows {len(tokens)} tokens.")


if __name__ == "__main__":
    main()
