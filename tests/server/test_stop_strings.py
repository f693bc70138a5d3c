"""Stop strings: the answer must not depend on how its text was cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from motet.server.stop_strings import StopStringFinder

# Few letters, so that stop strings do occur, overlap, and begin without ending.
texts = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def run(
    stops: list[str], pieces: list[str], *, includes_stop: bool = False
) -> tuple[list[str], bool]:
    finder = StopStringFinder(stops, includes_stop=includes_stop)
    shown = [finder.push(piece) for piece in pieces]
    if not finder.found:
        shown.append(finder.flush())
    return shown, finder.found


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """By definition: the first position at which any stop string ends, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(stop_lists, st.lists(texts, max_size=6))
def test_any_cut_gives_the_text_before_the_first_stop_string(
    stops: list[str], pieces: list[str]
) -> None:
    shown, found = run(stops, pieces)
    assert ("".join(shown), found) == expected(stops, "".join(pieces))


@given(stop_lists, st.lists(texts, max_size=6))
def test_a_stop_string_may_be_shown_to_its_end(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    shown, found = run(stops, pieces, includes_stop=True)
    assert found == expected(stops, text)[1]
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    assert "".join(shown) == (text[: min(ends)] if found else text)


@given(stop_lists, texts)
def test_letter_by_letter_nothing_of_a_stop_string_is_ever_shown(
    stops: list[str], text: str
) -> None:
    finder = StopStringFinder(stops)
    shown = ""
    for position, letter in enumerate(text):
        shown += finder.push(letter)
        seen = text[: position + 1]
        # Whatever comes next, what has been shown stays right.
        assert expected(stops, seen)[0].startswith(shown)
        if not finder.found:
            withheld = seen[len(shown) :]
            assert withheld == "" or any(stop.startswith(withheld) for stop in stops)


def test_text_without_stop_strings_is_never_held_back() -> None:
    finder = StopStringFinder([])
    assert [finder.push(piece) for piece in ("ab", "c")] == ["ab", "c"]
    assert finder.flush() == ""


def test_a_beginning_that_turns_out_to_be_none_is_shown_late_but_whole() -> None:
    finder = StopStringFinder(["\n\nUser"])
    assert finder.push("hello\n") == "hello"
    assert finder.push("\nUs") == ""
    assert finder.push("ual") == "\n\nUsual"
    assert not finder.found


def test_nothing_follows_a_stop_string() -> None:
    finder = StopStringFinder(["END"])
    assert finder.push("a END b") == "a "
    assert finder.found
    assert finder.push("more") == ""
