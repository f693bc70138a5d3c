"""What one generation did, in figures, for metrics and for its request's log line and span.

Owns: latencies as outputs come, and the sums at its end.
Does not know: text, nor who is shown the figures (`metrics.py`, `middleware.py`).
"""

from __future__ import annotations

import time

from motet.core.messages import TokenOutput
from motet.server.choice import Choice, Delta, Usage
from motet.server.context import Figures, RequestContext
from motet.server.metrics import Metrics


class GenerationWatch:
    """Watches one generation from its submission to its end.

    Args:
        metrics: where it counts.
        label: the model's name.
        context: of its HTTP request, which gets the figures.
    """

    def __init__(self, metrics: Metrics, label: str, context: RequestContext) -> None:
        self._metrics = metrics
        self._label = label
        self._context = context
        self._latencies = metrics.latencies_of(label)
        self._queue_s: float | None = None
        self._ttft_s: float | None = None
        self._finish_reasons: list[str] = []
        metrics.add_active(label, 1)

    def output(self, choice: Choice, output: TokenOutput) -> None:
        """An output of the engine's has come, and `choice` has not taken it yet."""
        now_s = time.monotonic()
        if choice.last_output_s is None:
            ttft_s = now_s - self._context.started_s
            self._latencies.ttft_s.observe(ttft_s)
            self._latencies.queue_s.observe(output.queue_s)
            if self._ttft_s is None:
                self._ttft_s, self._queue_s = ttft_s, output.queue_s
        elif output.token_ids:
            num_tokens = len(output.token_ids)
            self._latencies.itl_s.observe((now_s - choice.last_output_s) / num_tokens)
        choice.last_output_s = now_s

    def delta(self, delta: Delta) -> None:
        """A choice has made this of an output."""
        if delta.finish_reason is not None:
            self._finish_reasons.append(delta.finish_reason)

    def end(self, usage: Usage) -> None:
        """Nothing more comes: it has finished, failed, or was given up."""
        self._metrics.add_active(self._label, -1)
        num_prompt, num_output = usage.num_prompt_tokens, usage.num_output_tokens
        self._metrics.add_tokens(self._label, num_prompt, num_output)
        self._metrics.tenants.add_tokens(self._context.principal.tenant, num_prompt, num_output)
        self._context.figures = Figures(
            num_prompt_tokens=usage.num_prompt_tokens,
            num_cached_tokens=usage.num_cached_tokens,
            num_output_tokens=usage.num_output_tokens,
            queue_s=self._queue_s,
            ttft_s=self._ttft_s,
            finish_reasons=tuple(self._finish_reasons),
        )
