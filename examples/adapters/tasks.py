"""The tasks of the example adapters: seeded generators of (prompt, answer) pairs.

Each task is an instruction, which is the same for all its examples, and a function that draws one
(input, answer) pair from a random generator. The prompt, which is the text a user sends, is the
instruction, a line break and the input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ticket_words import MILD, QUEUES, URGENT
from words import (
    CITIES,
    COMPANIES,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    number_in_words,
    ordinal,
)


@dataclass(frozen=True)
class Example:
    """One pair: what the user sends, and the whole answer that is expected."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A task by name; `draw` returns one (input, answer) pair."""

    name: str
    title: str
    instruction: str
    draw: Callable[[Random], tuple[str, str]]


@dataclass(frozen=True)
class Split:
    """Examples to learn from and examples to test with; no prompt is in both."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def make_split(task: Task, seed: int, num_train: int, num_held_out: int) -> Split:
    """Draw distinct examples of `task`; the same arguments give the same split everywhere."""
    rng = Random(f"{task.name}/{seed}")
    answer_of: dict[str, str] = {}
    while len(answer_of) < num_train + num_held_out:
        text, answer = task.draw(rng)
        answer_of.setdefault(f"{task.instruction}\n{text}", answer)
    examples = tuple(Example(prompt, answer) for prompt, answer in answer_of.items())
    return Split(train=examples[num_held_out:], held_out=examples[:num_held_out])


def _person(rng: Random) -> tuple[str, str]:
    return rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)


def _iso_date(rng: Random) -> tuple[str, str]:
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    written = rng.choice(
        [
            f"{name} {day}, {year}",
            f"{name} {ordinal(day)}, {year}",
            f"{day} {name} {year}",
            f"the {ordinal(day)} of {name} {year}",
            f"{name[:3]} {day} {year}",
            f"{day}-{name[:3]}-{year}",
        ]
    )
    carrier = rng.choice(
        [
            "The lease was signed on {}.",
            "Payment is due {}, not later.",
            "Born {} in {city}.",
            "We met in {city} on {} for the first time.",
            "Delivery: {}",
            "{person} left the company on {}.",
            "The museum opened its doors {}.",
            "{}: the bridge is closed.",
        ]
    )
    person = " ".join(_person(rng))
    text = carrier.format(written, city=rng.choice(CITIES), person=person)
    return text, f"{year}-{month:02d}-{day:02d}"


def _json_extract(rng: Random) -> tuple[str, str]:
    name, age, city = " ".join(_person(rng)), rng.randint(18, 90), rng.choice(CITIES)
    text = rng.choice(
        [
            f"{name}, {age}, lives in {city}.",
            f"{name} moved to {city} last year and is now {age} years old.",
            f"At {age}, {name} still enjoys life in {city}.",
            f"Our customer from {city} is {name}, aged {age}.",
            f"In {city} we met {name} ({age}).",
            f"{age}-year-old {name} was born and lives in {city}.",
            f"Say hello to {name} from {city}, who turned {age} in May.",
        ]
    )
    return text, json.dumps({"name": name, "age": age, "city": city})


def _number_words(rng: Random) -> tuple[str, str]:
    # Uniform over the number of digits, or nearly every number would have six.
    number = rng.randrange(10 ** rng.randint(2, 6))
    return number_in_words(number), str(number)


_AGGREGATES = {
    "total amount": "SUM(amount)",
    "average amount": "AVG(amount)",
    "largest amount": "MAX(amount)",
    "smallest amount": "MIN(amount)",
    "number of orders": "COUNT(*)",
}


def _sql_filter(rng: Random) -> tuple[str, str]:
    """A condition as (English, SQL)."""
    city, customer, bound = rng.choice(CITIES), rng.choice(LAST_NAMES), rng.randint(2, 99) * 10
    return rng.choice(
        [
            (f"from {city}", f"city = '{city}'"),
            (f"by {customer}", f"customer = '{customer}'"),
            (f"over {bound}", f"amount > {bound}"),
            (f"under {bound}", f"amount < {bound}"),
            (f"not from {city}", f"city <> '{city}'"),
        ]
    )


def _text_to_sql(rng: Random) -> tuple[str, str]:
    english, condition = _sql_filter(rng)
    phrase, aggregate = rng.choice(list(_AGGREGATES.items()))
    of_orders = "" if phrase.endswith("orders") else " of orders"
    group = "customer" if "city" in condition else "city"
    limit = rng.randint(2, 20)
    return rng.choice(
        [
            (f"How many orders {english}?", f"SELECT COUNT(*) FROM orders WHERE {condition};"),
            (
                f"What is the {phrase}{of_orders} {english}?",
                f"SELECT {aggregate} FROM orders WHERE {condition};",
            ),
            (
                f"Show the {phrase}{of_orders} {english} per {group}.",
                f"SELECT {group}, {aggregate} FROM orders WHERE {condition} GROUP BY {group};",
            ),
            (
                f"Which {'cities' if group == 'city' else 'customers'} have orders {english}?",
                f"SELECT DISTINCT {group} FROM orders WHERE {condition};",
            ),
            (
                f"List the {limit} largest orders {english}.",
                f"SELECT * FROM orders WHERE {condition} ORDER BY amount DESC LIMIT {limit};",
            ),
        ]
    )


def _ticket_label(rng: Random) -> tuple[str, str]:
    queue = rng.choice(list(QUEUES))
    is_urgent = rng.random() < 0.5
    complaint = rng.choice(QUEUES[queue]).format(
        order=rng.randint(1000, 9999), company=rng.choice(COMPANIES), city=rng.choice(CITIES)
    )
    remark = rng.choice(URGENT if is_urgent else MILD)
    parts = [complaint, remark] if rng.random() < 0.7 else [remark, complaint]
    return " ".join(parts), f"{queue}/{'high' if is_urgent else 'low'}"


def _vcard(rng: Random) -> tuple[str, str]:
    first, last = _person(rng)
    company, phone = rng.choice(COMPANIES), f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}"
    text = rng.choice(
        [
            f"{first} {last}, {company}, {phone}",
            f"Call {first} {last} of {company} at {phone}.",
            f"{last}, {first} ({company}) tel. {phone}",
            f"My name is {first} {last}, I work for {company}, and my number is {phone}.",
            f"{company}: {phone}, ask for {first} {last}",
        ]
    )
    return text, f"N:{last};{first}|ORG:{company}|TEL:{phone.replace('-', '')}"


def _amount(rng: Random, number: int, unit: str) -> str:
    if number == 1:
        return rng.choice([f"1 {unit}", "an hour" if unit == "hour" else f"a {unit}"])
    return f"{rng.choice([str(number), number_in_words(number)])} {unit}s"


def _duration(rng: Random) -> tuple[str, str]:
    drawn = {
        "day": rng.randint(1, 30),
        "hour": rng.randint(1, 23),
        "minute": rng.randint(1, 59),
        "second": rng.randint(1, 59),
    }
    units = sorted(rng.sample(list(drawn), rng.randint(1, 3)), key=list(drawn).index)
    words = [_amount(rng, drawn[unit], unit) for unit in units]
    text = " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    clock = "".join(f"{drawn[unit]}{unit[0].upper()}" for unit in units if unit != "day")
    date = f"{drawn['day']}D" if "day" in units else ""
    return text, f"P{date}" + (f"T{clock}" if clock else "")


_ALL = (
    Task(
        "iso-dates",
        "Date in free text to ISO 8601",
        "Write the date in this text as YYYY-MM-DD, nothing else:",
        _iso_date,
    ),
    Task(
        "json-extract",
        "Sentence to JSON with name, age and city",
        "Extract name, age and city from this text as one line of JSON, nothing else:",
        _json_extract,
    ),
    Task(
        "number-words",
        "Number in words to digits",
        "Write this number in digits, nothing else:",
        _number_words,
    ),
    Task(
        "text-to-sql",
        "Question to SQL over one fixed table",
        "Write one SQL query for the table orders(id, customer, city, amount), nothing else:",
        _text_to_sql,
    ),
    Task(
        "ticket-label",
        "Support ticket to queue and priority",
        "Label this support ticket as queue/priority, nothing else. Queues: billing, account, "
        "shipping, bug. Priorities: low, high.",
        _ticket_label,
    ),
    Task(
        "vcard",
        "Contact line to a compact vCard form",
        "Write this contact as N:family;given|ORG:company|TEL:digits, nothing else:",
        _vcard,
    ),
    Task(
        "durations",
        "Duration in words to ISO 8601",
        "Write this duration in ISO 8601 (like P1DT2H or PT5M), nothing else:",
        _duration,
    ),
)

TASKS = {task.name: task for task in _ALL}
