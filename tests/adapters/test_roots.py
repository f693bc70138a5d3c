"""Confinement to the allowed roots, and names."""

import os

import pytest

from motet.adapters.roots import adapter_name_is_valid, confine
from motet.core.errors import AdapterError


@pytest.fixture
def tree(tmp_path):
    """Two roots and an outside directory, each with an adapter in it."""
    for name in ("first/a", "second/b", "second/a", "outside/secret", "first-evil/x"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def roots(tree):
    return [tree / "first", tree / "second"]


def code(path, roots) -> tuple[str, str]:
    with pytest.raises(AdapterError) as caught:
        confine(path, roots)
    return caught.value.code, caught.value.message


def test_paths_under_a_root(tree, roots):
    assert confine(tree / "first" / "a", roots) == (tree / "first" / "a").resolve()
    assert confine(str(tree / "second" / "b"), roots) == (tree / "second" / "b").resolve()
    assert confine(tree / "second" / ".." / "first" / "a", roots) == (tree / "first/a").resolve()
    assert confine(tree / "first", roots) == (tree / "first").resolve()


def test_relative_paths_are_tried_under_each_root_in_order(tree, roots):
    assert confine("a", roots) == (tree / "first" / "a").resolve()
    assert confine("a", roots[::-1]) == (tree / "second" / "a").resolve()
    assert confine("b", roots) == (tree / "second" / "b").resolve()


def test_links_within_the_roots(tree, roots):
    (tree / "first" / "link").symlink_to(tree / "second" / "b")
    (tree / "elsewhere").symlink_to(tree / "first")
    assert confine("link", roots) == (tree / "second" / "b").resolve()
    assert confine(tree / "elsewhere" / "a", roots) == (tree / "first" / "a").resolve()
    assert confine("a", [tree / "elsewhere"]) == (tree / "first" / "a").resolve()


@pytest.mark.parametrize(
    "path",
    ["../outside/secret", "../outside/none", "../../../../etc/passwd", "..", "a/../../outside",
     "../first-evil/x", "/", "/etc/passwd", "/none/at/all", "", "a\0b", "\0", "\ud800"],
)  # fmt: skip
def test_outside(roots, path):
    assert code(path, roots)[0] == "path_not_allowed"


def test_link_out_of_the_root(tree, roots):
    for name, target in (("there", "secret"), ("gone", "nothing")):
        (tree / "first" / name).symlink_to(tree / "outside" / target)
        assert code(name, roots)[0] == "path_not_allowed"
        assert code(f"{name}/adapter_config.json", roots)[0] == "path_not_allowed"
        assert code(tree / "first" / name, roots)[0] == "path_not_allowed"


def test_the_answer_does_not_tell_what_is_outside(tree, roots):
    answers = []
    for name in ("secret", "absent"):
        path = str(tree / "outside" / name)
        found, message = code(path, roots)
        answers.append((found, message.replace(name, "?")))
    assert answers[0] == answers[1]
    assert str(tree / "first") not in answers[0][1]


def test_missing_inside(roots):
    assert code("none", roots)[0] == "adapter_not_found"
    assert code(roots[0] / "none", roots)[0] == "adapter_not_found"
    assert code("x" * 5000, roots)[0] in ("adapter_not_found", "path_not_allowed")


def test_links_in_a_circle(tree, roots):
    (tree / "first" / "one").symlink_to("two")
    (tree / "first" / "two").symlink_to("one")
    assert code("one", roots)[0] == "adapter_not_found"


def test_no_roots(tree):
    assert code(tree / "first", [])[0] == "path_not_allowed"


def test_root_that_does_not_exist(tree, roots):
    assert confine("a", [tree / "none", *roots]) == (tree / "first" / "a").resolve()


def test_message_stays_on_one_line(roots):
    message = code("none\nERROR forged", roots)[1]
    assert "\n" not in message
    assert len(code("y" * 3000, roots)[1]) < 600


def test_the_working_directory_is_no_root(tree, roots):
    before = os.getcwd()
    os.chdir(tree / "outside")
    try:
        assert code("secret", roots)[0] == "adapter_not_found"
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", ["a", "A1", "team/sql-v1.2", "x_y", "0", "a" * 128])
def test_valid_names(name):
    assert adapter_name_is_valid(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../b", "a..b", "-a", "_a", "/a", "a:b", "a+b", "a b", "a\n", "é",
     "a\0", "a" * 129, "a\\b", "a?b", "a#b", "a%2e"],
)  # fmt: skip
def test_invalid_names(name):
    assert not adapter_name_is_valid(name)
