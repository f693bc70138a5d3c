"""The report: its structure, what is in it, what cannot get into it, and that it is repeatable."""

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from motet.bench.record import Run, Sample, Slo
from motet.bench.report import write_report
from motet.bench.report.group_rows import adapter_name, rows_by_group
from motet.bench.report.theme import DARK, LIGHT
from motet.bench.report.views import views_of
from tests.bench.report.page_parts import PageParts
from tests.bench.runs import made_up_run, record, refused, run_of

HOSTILE = (
    '</text></style><script>alert(1)</script><img src=x onerror="alert(2)">&amp;$\\frac{1}{0}$'
)


@pytest.fixture(scope="module")
def overloaded() -> Run:
    return made_up_run(num_requests=200)


@pytest.fixture(scope="module")
def refusing() -> Run:
    return made_up_run(num_requests=200, refuses=True, label="slo")


def written(runs: Sequence[Run], folder: Path) -> str:
    path = folder / "report.html"
    write_report(runs, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page_of_one(overloaded: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written([overloaded], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def page_of_two(overloaded: Run, refusing: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written([overloaded, refusing], tmp_path_factory.mktemp("two"))


def test_headings_go_down_one_by_one(page_of_two: str) -> None:
    levels = [int(tag[1]) for tag, _ in PageParts(page_of_two).elements if re.match("h[1-6]$", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_plot_is_told_in_words(page_of_two: str) -> None:
    parts = PageParts(page_of_two)
    ids = [attributes["id"] for _, attributes in parts.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = parts.all("svg")
    assert len(pictures) == 9 + 2 * 5
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
    assert "median" in parts.text("desc")
    assert "99th percentile" in parts.text("desc")
    assert len(parts.all("caption")) == len(parts.all("table"))


def test_text_in_plots_is_text(page_of_one: str) -> None:
    text = PageParts(page_of_one).text("text")
    for words in ("time to first token", "output tokens / s", "SLO 6 s", "tenant-0"):
        assert words in text


def test_nothing_comes_from_elsewhere(page_of_two: str) -> None:
    parts = PageParts(page_of_two)
    policy = next(
        each["content"] or "" for each in parts.all("meta") if each.get("http-equiv") is not None
    )
    assert "default-src 'none'" in policy
    assert {"script", "link", "img", "iframe", "image", "base", "object"}.isdisjoint(
        tag for tag, _ in parts.elements
    )
    for _, attributes in parts.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "data")
            assert "://" not in (value or "")
            if name == "href":
                assert (value or "").startswith("#")
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#")
    style = parts.text("style")
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style


def test_references_within_the_page_find_something(page_of_two: str) -> None:
    ids = set(re.findall(r' id="([^"]+)"', page_of_two))
    references = set(re.findall(r'(?:href="|url\()#([\w-]+)', page_of_two))
    assert references
    assert references <= ids


def test_both_schemes_have_every_colour_that_is_used(page_of_two: str) -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", page_of_two)) - {"mark"}
    assert used <= set(LIGHT)
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    for name in used:
        assert page_of_two.count(f"--{name}: #") == 2
    assert "prefers-color-scheme: dark" in page_of_two


def test_plots_have_no_colour_of_their_own(page_of_two: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", page_of_two, re.DOTALL))
    assert re.findall(r"(?:fill|stroke|color): ?#\w+", drawn) == []


def test_equal_runs_give_equal_bytes(overloaded: Run, page_of_one: str, tmp_path: Path) -> None:
    assert written([overloaded], tmp_path) == page_of_one


def test_two_runs_are_compared_with_a_direction(page_of_two: str) -> None:
    parts = PageParts(page_of_two)
    changes = parts.text("span")
    assert "points, better" in changes
    assert ", worse" in changes
    assert "fcfs against slo" in re.sub(r"\s+", " ", parts.text("h1", "span"))


def test_equal_labels_are_told_apart() -> None:
    assert [view.label for view in views_of([run_of([]), run_of([])])] == ["fcfs (1)", "fcfs (2)"]


def test_foreign_text_does_nothing(tmp_path: Path) -> None:
    requests = [
        record(0, adapter=HOSTILE, tenant=HOSTILE),
        record(1, adapter="b", tenant="\u202eevil\x00\x1b[31m"),
        record(2, error=HOSTILE, status=500),
    ]
    run = run_of(
        requests,
        label=HOSTILE,
        target=HOSTILE,
        workload=HOSTILE,
        started_at=HOSTILE,
        settings={"command": HOSTILE, "warnings": [HOSTILE], HOSTILE: {HOSTILE: [HOSTILE]}},
        environment={HOSTILE: HOSTILE},
    )
    page = written([run], tmp_path)
    parts = PageParts(page)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in parts.elements)
    assert not any(name.startswith("on") for _, each in parts.elements for name in each)
    assert page.count("<script") == 0
    assert "alert(1)" in parts.text("th")
    assert "alert(1)" in parts.text("pre")
    for char in "\u202e\x00\x1b":
        assert char not in page


def test_an_empty_run_says_why_there_is_nothing(tmp_path: Path) -> None:
    parts = PageParts(written([run_of([])], tmp_path))
    assert parts.all("svg") == []
    assert "No request was sent." in parts.text("li")
    assert parts.text("p").count("Not shown:") == 14


def test_a_run_without_any_answer(tmp_path: Path) -> None:
    requests = [refused(0), record(1, error="reset", piece_times_s=(), status=None)]
    parts = PageParts(written([run_of(requests)], tmp_path))
    assert "No request finished." in parts.text("li")
    assert "1 request failed" in parts.text("li")


def test_one_run_that_tells_less_than_the_other(tmp_path: Path) -> None:
    talking = made_up_run(num_requests=20, label="talking")
    silent = run_of([record(0), record(1, adapter="b")], label="silent")
    parts = PageParts(written([talking, silent], tmp_path))
    assert "Not shown: silent: The server did not tell." in parts.text("p")


def test_single_points_without_any_duration_are_drawn_too(tmp_path: Path) -> None:
    at_once = record(0, tenant="x", piece_times_s=[0.0, 0.0], ended_s=0.0)
    samples = [Sample(at_s=0.0), Sample(at_s=0.0, num_running=1, kv_share=0.5)]
    assert "<svg" in written([run_of([at_once], samples)], tmp_path)


def test_warnings_of_the_client_and_an_interruption_are_shown(tmp_path: Path) -> None:
    told = {"interrupted": True, "warnings": ["The client was too slow to be trusted."]}
    parts = PageParts(written([run_of([record(0)], settings=told)], tmp_path))
    assert "interrupted" in parts.text("li")
    assert "too slow to be trusted" in parts.text("li")
    assert "does not tell its command" in parts.text("p")


def test_runs_of_different_workloads_are_told(overloaded: Run, tmp_path: Path) -> None:
    other = run_of([record(0)], label="other", seed=7, slo=Slo(ttft_s=1))
    assert (
        "They differ in seed, SLO, so" in PageParts(written([overloaded, other], tmp_path)).text()
    )


def test_rows_of_a_group_stand_together() -> None:
    names = [f"a{rank:02d}" for rank in range(12) for _ in range(13 - rank)]
    one = run_of([record(index, adapter=name) for index, name in enumerate(names)])
    other = run_of([record(0, adapter="new"), record(1, adapter="a01")])
    rows = rows_by_group(views_of([one, other]), lambda summary: summary.by_adapter)
    shown = [(adapter_name(row), view.label) for row, view in rows]
    assert shown[:3] == [("a00", "fcfs (1)"), ("a01", "fcfs (1)"), ("a01", "fcfs (2)")]
    assert shown[-2:] == [("new", "fcfs (2)"), ("(2 other adapters)", "fcfs (1)")]


def test_other_than_one_or_two_runs_are_refused(tmp_path: Path) -> None:
    for runs in ([], [run_of([])] * 3):
        with pytest.raises(ValueError, match="one run or of two"):
            write_report(runs, tmp_path / "report.html")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from motet.bench.report import write_report\n"
        "from tests.bench.runs import run_of\n"
        "write_report([run_of([])], Path(sys.argv[1]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "report.html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install 'motet[bench]'" in result.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_large_run_gives_a_small_page(tmp_path: Path) -> None:
    run = made_up_run(
        num_requests=4_000, num_adapters=3_000, num_tenants=300, requests_per_s=40, num_servers=90
    )
    assert len(written([run, run], tmp_path)) < 1_500_000
