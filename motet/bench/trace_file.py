"""Reads a trace of requests that some server once had: JSON lines, or CSV with a header.

Owns: which columns a trace may have and what their values may be.
Does not know: what is made of a trace (`replay.py`).

Columns are found by their names, whatever their case and punctuation, so that the traces in use
can be read as they are: those of Azure (TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT
(Timestamp, Model, Request tokens, Response tokens) and Chatbot Arena's logs (tstamp, model).
"""

import csv
import io
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from motet.bench.load import MAX_REQUESTS
from motet.bench.workload import LONGEST

_TIME = ("timestamp", "tstamp", "time", "arrivals", "arrivaltime")
_ADAPTER = ("adapter", "model", "lora", "adaptername", "modelname")
_PROMPT = (
    "numprompttokens",
    "prompttokens",
    "promptlength",
    "promptlen",
    "inputtokens",
    "inputlength",
    "inputlen",
    "contexttokens",
    "requesttokens",
)
_OUTPUT = (
    "numoutputtokens",
    "outputtokens",
    "outputlength",
    "outputlen",
    "generatedtokens",
    "completiontokens",
    "responsetokens",
)

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]")
_MAX_ADAPTER_CHARS = 256

_Row = tuple[int, Mapping[str, Any]]  # the number of a line, and its values by plain name


@dataclass(frozen=True, kw_only=True)
class TraceLine:
    """One request of a trace.

    Attributes:
        at_s: seconds since any moment that is the same for all lines.
        adapter: None where the trace has no such column, or nothing in it.
        num_prompt_tokens, num_output_tokens: 0 is what a failed request may have.
    """

    at_s: float
    adapter: str | None
    num_prompt_tokens: int
    num_output_tokens: int


def read_trace(path: Path) -> list[TraceLine]:
    """Every line of a trace, in the order of the file.

    Args:
        path: JSON lines if it begins with a brace, CSV otherwise.

    Raises:
        ValueError: a line is not what it should be, with its number; or there is none, or too many.
        OSError: it cannot be read.
    """
    content = path.read_bytes().removeprefix(BOM_UTF8)
    rows = _json_rows(content) if content.lstrip().startswith(b"{") else _csv_rows(content)
    try:
        lines = list(islice(_lines(rows), MAX_REQUESTS + 1))
    except ValueError as error:
        raise ValueError(f"{path} is no trace: {error}.") from error
    if not 1 <= len(lines) <= MAX_REQUESTS:
        raise ValueError(f"{path}: expected 1 to {MAX_REQUESTS:,} requests in a trace.")
    return lines


def _lines(rows: Iterable[_Row]) -> Iterator[TraceLine]:
    for number, values in rows:
        try:
            yield TraceLine(
                at_s=_seconds(_value(values, _TIME)),
                adapter=_adapter(values),
                num_prompt_tokens=_num_tokens(_value(values, _PROMPT)),
                num_output_tokens=_num_tokens(_value(values, _OUTPUT)),
            )
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error


def _json_rows(content: bytes) -> Iterator[_Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}") from error
        yield number, {_plain(name): value for name, value in values.items()}


def _csv_rows(content: bytes) -> Iterator[_Row]:
    text = io.StringIO(content.decode(), newline="")
    reader = csv.reader(text, strict=True)
    try:
        names = [_plain(name) for name in next(reader, [])]
        for values in reader:
            if len(values) not in (0, len(names)):  # a blank line has none
                raise ValueError(
                    f"line {reader.line_num}: {len(values)} values: expected {len(names)}, as the "
                    "header has"
                )
            if values:
                yield reader.line_num, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


@lru_cache(maxsize=256)
def _plain(name: str) -> str:
    """A column's name without case and punctuation."""
    return _NOT_IN_A_NAME.sub("", name.lower())


def _value(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What stands in the column that has one of these names."""
    for name in names:
        if name in values:
            return values[name]
    raise ValueError(f"no {names[0]}: expected a column that is called {', '.join(names)}")


def _seconds(value: Any) -> float:
    """A number of seconds as it is; of a date and time, those since 1970."""
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds = _moment(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(f"the time is {value!r}: expected seconds, or a date and time")
    if not math.isfinite(seconds):
        raise ValueError(f"the time is {value!r}: expected a finite number of seconds")
    return seconds


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"the time is {text!r}: expected seconds, or a date and time in ISO 8601"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _num_tokens(value: Any) -> int:
    """A length: an integer, or what spells one; pandas writes 85 as 85.0."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (0 <= number <= LONGEST and number.is_integer()) or isinstance(value, bool):
        raise ValueError(f"a length is {value!r}: expected an integer from 0 to {LONGEST:,}")
    return int(number)


def _adapter(values: Mapping[str, Any]) -> str | None:
    """The adapter that is named, if one is."""
    name = next((values[each] for each in _ADAPTER if each in values), None)
    if name is None or name == "":
        return None
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MAX_ADAPTER_CHARS:
        raise ValueError(
            f"an adapter is {name!r:.300}: expected a name of at most {_MAX_ADAPTER_CHARS} "
            "printable characters"
        )
    return name
