"""The dashboard: every panel shows something that a running server exports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import StartServer
from tests.server.test_metrics import scrape

DASHBOARD = json.loads(
    (Path(__file__).resolve().parents[2] / "deploy" / "grafana.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [
    target["expr"] for panel in PANELS if panel["type"] != "row" for target in panel["targets"]
]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
_SELECTOR = re.compile(r"([a-z_:]+)\{([^}]*)\}")


def metrics_of(query: str) -> set[str]:
    """Names of the series that a query, or the definition of a variable, reads."""
    if match := re.fullmatch(r"label_values\((\w+), \w+\)", query):
        return {match[1]}
    return {name for name, _ in _SELECTOR.findall(query)}


def test_every_metric_it_asks_for_is_exported(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        server.complete(model="red")
        server.complete(model="nothing")
        labels: dict[str, set[str]] = {}
        for name, pairs in scrape(server):
            labels.setdefault(name, set()).update(label for label, _ in pairs)
    definitions = [each["definition"] for each in VARIABLES.values() if "definition" in each]
    for query in (*QUERIES, *definitions):
        assert metrics_of(query), query
        assert metrics_of(query) <= labels.keys(), query
    for query in QUERIES:
        grouped = {
            name for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")
        }
        for metric, matchers in _SELECTOR.findall(query):
            known = labels[metric] | {"instance"}  # Prometheus adds it
            used = set(re.findall(r'(\w+)=~"', matchers)) | grouped
            assert used <= known, query


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_whole(query: str) -> None:
    """Brackets close, counters are only read as rates, and each is of the chosen instances."""
    for left, right in ("()", "{}", "[]"):
        assert query.count(left) == query.count(right)
    for metric, matchers in _SELECTOR.findall(query):
        assert 'instance=~"$instance"' in matchers
        if metric.endswith(("_total", "_bucket")) and metric != "motet_pages_total":  # a gauge
            assert re.search(rf"(rate|increase)\({metric}\{{", query)
    assert set(re.findall(r"\$([a-z]+)", query)) <= {*VARIABLES, "__rate_interval"}


def test_it_has_the_rows_of_a_server_and_no_panel_over_another() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == [
        "Traffic",
        "Latency",
        "Batch",
        "Memory and adapters",
        "Cold starts of adapters",
        "Errors and processes",
        "Tenants and refusals",
    ]
    assert {"datasource", "instance", "model"} == VARIABLES.keys()
    assert any('model=~"$model"' in query for query in QUERIES)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
