"""The scanner against Python's own JSON parser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.server.tools.object_scanner import MAX_DEPTH, Mark, ObjectScanner

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=5)


def is_whole_object(text: str) -> bool:
    scanner = ObjectScanner()
    for index, char in enumerate(text):
        mark = scanner.push(char)
        if mark is Mark.BROKEN:
            return False
        if mark is Mark.OBJECT_ENDS:
            return index == len(text) - 1
    return False


def is_object_to_python(text: str) -> bool:
    def refuse(_: str) -> None:
        raise ValueError("no JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return isinstance(value, dict) and not text.endswith((" ", "\t", "\r", "\n"))


@given(json_objects, st.booleans(), st.sampled_from([None, 0, 3]))
def test_objects_are_taken(value: object, is_ascii: bool, indent: int | None) -> None:
    assert is_whole_object(json.dumps(value, ensure_ascii=is_ascii, indent=indent))


@given(json_objects, st.data())
def test_objects_with_a_slip_are_judged_as_by_python(value: object, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    place = data.draw(st.integers(0, len(text)))
    num_gone = data.draw(st.integers(0, 2))
    slip = data.draw(st.text('{}[]",:\\ \n0-e.tu+', max_size=2))
    changed = text[:place] + slip + text[place + num_gone :]
    assert is_whole_object(changed) == is_object_to_python(changed)


@given(st.text('{}[]",:\\ 01-e.atrue', max_size=12))
def test_anything_is_judged_as_by_python(text: str) -> None:
    changed = '{"a":' + text + "}"
    assert is_whole_object(changed) == is_object_to_python(changed)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_bounded(opening: str) -> None:
    closing = "]" if opening == "[" else "}"

    def nested(num_levels: int) -> str:
        return '{"a":' + opening * num_levels + "1" + closing * num_levels + "}"

    assert is_whole_object(nested(MAX_DEPTH - 1))
    assert not is_whole_object(nested(MAX_DEPTH))


def test_only_the_outermost_members_are_marked() -> None:
    scanner = ObjectScanner()
    text = '{"a": {"b": "c"}, "d": "e", "f": 1}'
    marks = [
        (mark, place)
        for place, mark in enumerate(map(scanner.push, text))
        if mark is not Mark.NOTHING
    ]
    assert [(mark, text[place]) for mark, place in marks] == [
        (Mark.KEY_BEGINS, '"'),
        (Mark.KEY_ENDS, '"'),
        (Mark.VALUE_BEGINS, "{"),
        (Mark.VALUE_ENDS, "}"),
        (Mark.KEY_BEGINS, '"'),
        (Mark.KEY_ENDS, '"'),
        (Mark.VALUE_BEGINS, '"'),
        (Mark.VALUE_ENDS, '"'),
        (Mark.KEY_BEGINS, '"'),
        (Mark.KEY_ENDS, '"'),
        (Mark.VALUE_BEGINS, "1"),
        (Mark.OBJECT_ENDS, "}"),
    ]
