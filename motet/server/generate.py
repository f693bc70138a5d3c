"""One path from a checked request to pieces of text, for both endpoints, streamed or not.

Owns: the load of an adapter before its first use, admission, the end of what takes too long.
Does not know: how tokens become text (`choice.py`), nor the JSON of either endpoint.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request

from motet.core.errors import MotetError
from motet.core.messages import AddRequest, RoutedSetInfo, TokenOutput
from motet.server import admission
from motet.server.adapter import kind_of
from motet.server.allowance import Reservation
from motet.server.budget import default_share, require_within_budget
from motet.server.choice import Choice, Delta, Usage, best_choices, count_cached
from motet.server.context import RequestContext, context_of
from motet.server.deadline import timed_out
from motet.server.errors import OverloadedError, bad_request
from motet.server.generation_watch import GenerationWatch
from motet.server.prefix_scope import prefix_scope
from motet.server.protocol import GenerationParameters
from motet.server.replies import unless_client_leaves
from motet.server.resolved import Resolved
from motet.server.routing_json import require_routed_set
from motet.server.services import Services
from motet.server.token_stream import TokenStream


class Generation:
    """All choices of one HTTP request, running in the engine. Close it in any case.

    Attributes:
        id: unique among all requests, unlike a request id that a client chose.
        routed: the routed set whose choices are to be told of; None if none are.
    """

    def __init__(
        self,
        group: str,
        stream: TokenStream,
        choices: dict[str, Choice],
        num_prompt_tokens: int,
        watch: GenerationWatch,
        reservation: Reservation | None,
        timers: Sequence[asyncio.TimerHandle],
        routed: RoutedSetInfo | None,
    ) -> None:
        self.id = group
        self.routed = routed
        self._stream = stream
        self._choices = choices
        self._num_prompt_tokens = num_prompt_tokens
        self._watch = watch
        self._reservation = reservation
        self._timers = timers
        self._is_refused = False
        self._is_closed = False

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    @property
    def usage(self) -> Usage:
        """Counts so far; of what was refused before it ran, nothing has been used."""
        if self._is_refused and not self._stream.has_output:
            return Usage(0, 0, 0)
        choices = self._choices.values()
        num_output_tokens = sum(choice.num_tokens for choice in choices)
        return Usage(self._num_prompt_tokens, count_cached(choices), num_output_tokens)

    async def deltas(self) -> AsyncIterator[Delta]:
        """New text, and the end of each choice. Raises MotetError if the engine fails."""
        while (output := await self._next_output()) is not None:
            choice = self._choices[output.request_id]
            if choice.is_finished:  # at a stop string; this was on its way already
                continue
            self._watch.output(choice, output)
            delta = choice.push(output)
            self._watch.delta(delta)
            if choice.is_finished:
                self._stream.abort(output.request_id)
            if not delta.is_empty:
                yield delta

    async def _next_output(self) -> TokenOutput | None:
        try:
            return await self._stream.next()
        except OverloadedError:
            self._is_refused = True
            raise

    def best(self, num_kept: int) -> list[int]:
        """The choices to answer with once all have finished: `num_kept` for each prompt."""
        return best_choices(list(self._choices.values()), num_kept)

    def close(self) -> None:
        """Abort what has not finished, and count what was done."""
        if self._is_closed:
            return
        self._is_closed = True
        for timer in self._timers:
            timer.cancel()
        self._stream.close()
        usage = self.usage
        if self._reservation is not None:
            self._reservation.settle(usage.num_prompt_tokens + usage.num_output_tokens)
        self._watch.end(usage)


def _deadline_timers(context: RequestContext, stream: TokenStream) -> list[asyncio.TimerHandle]:
    """Timers that abort what runs when its time is over; its reader gets the error.

    They act on the stream rather than on whoever reads it, so that the engine is freed at once
    even if the client does not read.
    """
    deadline = context.deadline
    if deadline is None:
        return []
    loop = asyncio.get_running_loop()

    def end_if_queued() -> None:
        if not stream.has_output:
            stream.expire(timed_out())

    return [
        loop.call_later(deadline.seconds_left(has_first_token=False), end_if_queued),
        loop.call_later(deadline.seconds_left(has_first_token=True), stream.expire, timed_out()),
    ]


async def find_model(
    request: Request, services: Services, params: GenerationParameters
) -> Resolved:
    """Exactly what serves this request: the base model, or certain versions of adapters.

    Every endpoint asks here first, and uses nothing but the answer from then on. The request's
    context is told, and keeps the versions until the request has ended. Where a name means several
    versions, requests of one `user` get the same.

    Raises:
        MotetError: 404 `model_not_found`, also for a model that the requester may not use; 400 for
            adapters that cannot be composed.
    """
    context = context_of(request.scope)
    sticky_key = params.user or context.request_id
    resolved = await services.registry.resolve(
        params.model, context.principal, sticky_key, params.lora
    )
    if context.lease is not None:  # the request has asked before
        context.lease.end()
    context.model_label = resolved.label
    context.adapter_name = resolved.name
    context.adapter_versions = resolved.versions
    context.lease = resolved.lease
    return resolved


async def wait_for_adapter(request: Request, services: Services, model: Resolved) -> None:
    """Have what `model` needs loaded. When this returns, `start_generation` may use it at once.

    Raises:
        MotetError: it cannot be loaded, or the client left or its time was over meanwhile; the
            load goes on then, for others may wait for it.
    """
    deadline = context_of(request.scope).deadline
    left_s = None if deadline is None else deadline.seconds_left(has_first_token=False)
    try:
        async with asyncio.timeout(left_s) as timeout:
            while services.registry.needs_load(model):  # again, if the engine was restarted
                load = services.registry.ensure_loaded(model)
                await unless_client_leaves(request.receive, load)
    except TimeoutError:
        if not timeout.expired():
            raise
        raise timed_out() from None


def start_generation(
    services: Services,
    params: GenerationParameters,
    model: Resolved,
    prompts: Sequence[list[int]],
    *,
    context: RequestContext,
    grammar: str | None,
    max_tokens: int | None,
    default_max_tokens: int | None,
    prompt_param: str,
) -> Generation:
    """Check every prompt against the model's limits and hand all choices to the engine.

    Does not wait: the name is resolved to a digest and submitted in one go, so that a reload
    cannot come between. `wait_for_adapter` has just been waited for.

    Args:
        model: what `find_model` answered.
        prompts: token ids of each prompt; choice `p * num_candidates + i` is choice i of prompt p.
        context: of the HTTP request: when it came, whose cached prefixes it shares, and what it
            may use.
        grammar: what every answer has to be; None is free text.
        max_tokens: tokens to generate at most, as asked for.
        default_max_tokens: if it was not asked for; fewer if there is no room for so many, and
            None is all that there is room for, within the request's budget and its key's.
        prompt_param: the field that holds the prompts, for errors.

    Raises:
        MotetError: the request can never be done, its key may not use so many tokens now, the
            engine is not ready, or too many wait for it already.
    """
    engine = services.client.info
    vocab_size = engine.shape.vocab_size
    served = services.registry.admit(model)
    routed = require_routed_set(served.info) if params.return_routing else None
    admission.require_known_token_ids(params.stop_token_ids, vocab_size, "stop_token_ids")
    admission.require_known_token_ids(list(params.logit_bias), vocab_size, "logit_bias")
    admission.require_priority(params.priority, context.principal)
    require_within_budget(params, prompts, max_tokens)
    num_prompt_tokens = sum(len(each) for each in prompts)
    if default_max_tokens is None:
        most_tokens = None if context.allowance is None else context.allowance.most_tokens
        default_max_tokens = default_share(
            len(prompts) * params.num_candidates, num_prompt_tokens, most_tokens
        )
    seed = admission.choose_seed(params)
    scope = prefix_scope(context.tenant, params.cache_salt)
    group = uuid.uuid4().hex
    requests: list[AddRequest] = []
    choices: dict[str, Choice] = {}
    for prompt_index, prompt in enumerate(prompts):
        if not prompt:
            raise bad_request(f"'{prompt_param}' has no tokens.", prompt_param)
        admission.require_known_token_ids(prompt, vocab_size, prompt_param)
        admitted = admission.admit_max_tokens(
            num_prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            default_max_tokens=default_max_tokens,
            engine=engine,
            num_adapter_pages=0 if served.info is None else served.info.num_pages,
            param=prompt_param,
        )
        admission.require_min_tokens(params.min_tokens, admitted)
        for index in range(params.num_candidates):
            sampling = admission.sampling_params(
                params,
                max_tokens=admitted,
                seed=seed,
                choice=index,
                eos_token_ids=services.tokenizer.eos_token_ids,
                grammar=grammar,
            )
            request_id = f"{group}-{len(requests)}"
            choices[request_id] = Choice(
                len(requests),
                prompt_index,
                services.tokenizer,
                params,
                sampling.stop_token_ids,
            )
            requests.append(
                AddRequest(
                    request_id,
                    prompt,
                    sampling,
                    None if served.info is None else served.info.digest,
                    scope,
                    params.priority,
                    list(served.parts),
                    params.return_routing,
                    tenant=context.principal.tenant,
                    weight=context.principal.weight,
                )
            )
    stream, reservation = _submit(services, requests, num_prompt_tokens, context)
    watch = GenerationWatch(services.metrics, model.label, context)
    timers = _deadline_timers(context, stream)
    services.metrics.count_generation(kind_of(served.info, has_parts=bool(served.parts)))
    return Generation(group, stream, choices, num_prompt_tokens, watch, reservation, timers, routed)


def _submit(
    services: Services,
    requests: Sequence[AddRequest],
    num_prompt_tokens: int,
    context: RequestContext,
) -> tuple[TokenStream, Reservation | None]:
    """Reserve what the requests may use of their key's tokens, and send them."""
    if context.allowance is None:
        return services.client.submit(requests), None
    most_output_tokens = sum(each.sampling.max_tokens for each in requests)
    reservation = context.allowance.reserve_tokens(num_prompt_tokens + most_output_tokens)
    try:
        return services.client.submit(requests), reservation
    except MotetError:
        reservation.settle(0)
        raise
