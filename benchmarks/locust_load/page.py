"""What locust's web page has beside its own: a check of the form, and two tabs.

Owns: the tabs "Groups" (a line for each group, in words and units) and "Summary".
Does not know: how anything is counted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Response, jsonify, request
from locust.env import Environment
from locust.stats import RequestStats

_GROUPS, _SUMMARY = "motet-groups", "motet-summary"

_COLUMNS = {
    "group": "Adapters",
    "answered": "Answered",
    "failed": "Failed",
    "refused": "Refused",
    "ttft_50": "TTFT median [ms]",
    "ttft_99": "TTFT 99 % [ms]",
    "itl_50": "ITL median [ms]",
    "itl_99": "ITL 99 % [ms]",
    "speed": "Tokens/s of a stream, median",
}


def extend_page(
    environment: Environment,
    check: Callable[[Mapping[str, str]], None],
    summary: Callable[[], Sequence[str]],
) -> None:
    """Add to the page before it is served.

    Args:
        check: raises ValueError or OSError for a form that cannot be done.
        summary: sentences on the load test so far.
    """
    page = environment.web_ui
    assert page is not None
    assert page.app is not None
    page.app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the form's order
    page.template_args |= {
        "extended_tabs": [
            {"title": "Groups", "key": _GROUPS},
            {"title": "Summary", "key": _SUMMARY},
        ],
        "extended_tables": [
            {"key": _GROUPS, "structure": _structure(_COLUMNS)},
            {"key": _SUMMARY, "structure": _structure({"line": "So far"})},
        ],
    }

    @page.app.before_request
    def check_form() -> Response | None:
        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        try:
            check(request.form)
        except (ValueError, OSError) as error:
            return jsonify({"success": False, "message": str(error), "host": environment.host})
        return None

    @page.app.after_request
    def add_tables(response: Response) -> Response:
        if request.path.endswith("/stats/requests") and response.is_json:
            tables = [
                {"key": _GROUPS, "data": group_rows(environment.stats)},
                {"key": _SUMMARY, "data": [{"line": line} for line in summary()]},
            ]
            response.set_data(json.dumps({**response.get_json(), "extended_stats": tables}))
        return response


def group_rows(stats: RequestStats) -> list[dict[str, Any]]:
    """A line for each group, the most asked first."""
    entries = stats.entries
    names = dict.fromkeys(name for name, _ in entries)
    rows = []
    for name in names:
        post, refused, ttft, itl, speed = (
            entries.get((name, kind)) for kind in ("POST", "refused", "TTFT", "ITL", "tokens/s")
        )
        failed = post.num_failures if post else 0
        rows.append(
            {
                "group": name,
                "answered": ttft.num_requests if ttft else 0,
                "failed": failed,
                "refused": refused.num_requests if refused else 0,
                "ttft_50": ttft.get_response_time_percentile(0.5) if ttft else None,
                "ttft_99": ttft.get_response_time_percentile(0.99) if ttft else None,
                "itl_50": itl.get_response_time_percentile(0.5) if itl else None,
                "itl_99": itl.get_response_time_percentile(0.99) if itl else None,
                "speed": speed.get_response_time_percentile(0.5) if speed else None,
            }
        )
    return sorted(rows, key=lambda row: row["answered"], reverse=True)


def _structure(columns: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "title": title} for key, title in columns.items()]
