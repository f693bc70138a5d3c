"""What a load test comes to, in sentences, and whether it is what was demanded.

Owns: the summary, and the exit code's reasons.
Does not know: where the counts come from.
"""

from benchmarks.locust_load.options import Settings
from benchmarks.locust_load.tally import LATE_S, Tally


def summary(tally: Tally, settings: Settings) -> list[str]:
    """What was measured, for a person."""
    rate = tally.num_output_tokens / tally.elapsed_s if tally.elapsed_s else 0.0
    ends = [
        f"{tally.num_finished} answered",
        f"{tally.num_refused} refused",
        f"{tally.num_failed} failed",
    ]
    if tally.num_cut:
        ends.append(f"{tally.num_cut} given up by the client")
    lines = [
        f"{tally.num_sent} requests in {tally.elapsed_s:.1f} s: {', '.join(ends)}.",
        f"All streams together: {rate:.1f} output tokens/s ({tally.num_output_tokens} tokens).",
    ]
    if tally.attainment is not None:
        lines.append(
            f"First token within {settings.ttft_slo_s:g} s: {tally.attainment:.1%} of "
            f"{tally.num_judged} requests."
        )
    if settings.is_open_loop and tally.num_late:
        lines.append(
            f"The client could not keep up: {tally.num_late} of {tally.num_sent} requests were "
            f"sent more than {LATE_S:g} s late, the worst {tally.max_late_s:.1f} s. Use more "
            "--processes, or a lower rate."
        )
    return lines


def misses(tally: Tally, settings: Settings) -> list[str]:
    """What was demanded and is not so; nothing for a load test that has passed."""
    if not tally.num_finished:
        return ["No stream came to its end."]
    found = []
    attainment = tally.attainment or 0.0
    if attainment < settings.min_attainment:
        found.append(
            f"Missed: {attainment:.1%} of the requests had their first token within "
            f"{settings.ttft_slo_s:g} s; --min-attainment demands {settings.min_attainment:.1%}."
        )
    if tally.fail_ratio > settings.max_fail_ratio:
        found.append(
            f"Missed: {tally.fail_ratio:.1%} of the requests failed; --max-fail-ratio allows "
            f"{settings.max_fail_ratio:.1%}."
        )
    return found
