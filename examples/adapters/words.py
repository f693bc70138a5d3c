"""Word lists that the task generators draw from."""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FIRST_NAMES = _split(
    "Anna Omar Lucia Peter Mei Jonas Fatima Ravi Clara Hugo Ingrid Mateo Nora Samuel Yuki Elena "
    "Victor Amara Felix Leila Bruno Sofia Daniel Priya Oscar Hanna Carlos Julia Tomas Zara Marta "
    "Adam Irene Kofi Lena Paul Rosa Simon Tara Walter"
)

LAST_NAMES = _split(
    "Smith Garcia Okafor Weber Tanaka Rossi Novak Patel Larsen Dubois Moreno Fischer Ahmed "
    "Kowalski Brown Silva Haddad Jensen Murphy Costa Ivanov Meyer Nguyen Lopez Schmidt Taylor "
    "Bauer Mensah Keller Romero Berg Walsh Santos Vogel Grant Lindqvist Marino Hughes Petrov Cohen"
)

CITIES = _split(
    "Oslo Paris Lima Cairo Kyoto Madrid Boston Vienna Nairobi Dublin Lisbon Toronto Berlin Mumbai "
    "Sydney Prague Austin Geneva Warsaw Seoul Havana Denver Zagreb Hanoi Bergen Milan Quito Leeds "
    "Tunis Bogota"
)

COMPANIES = _split(
    "Acme Northwind Globex Initech Contoso Umbra Vertex Bluebird Ironworks Lumen Papertrail Quartz "
    "Redwood Sunrise Tidal Uplift Wavecrest Zenith Harbor Mapleleaf"
)

MONTHS = _split(
    "January February March April May June July August September October November December"
)

_ONES = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)

_TENS = _split("twenty thirty forty fifty sixty seventy eighty ninety")


def number_in_words(number: int) -> str:
    """English words of `number`, 0 to 999,999: 2007 is "two thousand seven"."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"number is {number}, expected 0 to 999999")
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    if number < 1000:
        head, rest = divmod(number, 100)
        words = f"{_ONES[head]} hundred"
    else:
        head, rest = divmod(number, 1000)
        words = f"{number_in_words(head)} thousand"
    return f"{words} {number_in_words(rest)}" if rest else words


def ordinal(number: int) -> str:
    """`number` with its English suffix: 1st, 2nd, 3rd, 4th, 11th, 22nd."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
