"""What a process of the load test asks, one request after another.

Owns: the requests of a workload, over and over if it is to be repeated, and their bodies; the mix.
Does not know: when requests are sent (`loops.py`), and how.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import gevent

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.groups import BASE, Groups, most_asked
from benchmarks.locust_load.options import Settings
from benchmarks.locust_load.served import Served
from benchmarks.locust_load.shares import conversations, take_share
from benchmarks.workload import Mix
from motet.bench.named import make_workload
from motet.bench.naming import model_names
from motet.bench.prompts import PromptWriter
from motet.bench.target import Endpoint, Target, authorization
from motet.bench.workload import Workload, WorkRequest

OTHER_ADAPTERS = "other adapters"
OTHER_TENANTS = "other tenants"


@dataclass(frozen=True)
class Share:
    """The part of a workload that one process sends.

    Attributes:
        index, count: which of how many parts.
        prompt_seed: of the prompts' words, the same in all processes. A new one for each load
            test, or the server's prefix cache would know the prompts from the one before.
    """

    index: int
    count: int
    prompt_seed: int


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A request of a workload that has not been written yet.

    Attributes:
        at_s: when it is to be sent, from the start of the load test.
        round_number: how often the workload had been used up before.
    """

    request: WorkRequest
    at_s: float
    round_number: int
    names: dict[str | None, str] = field(repr=False)

    @property
    def key(self) -> tuple[int, int]:
        """Names it among all."""
        return self.round_number, self.request.index

    @property
    def after(self) -> tuple[int, int] | None:
        """The key of the request that must have ended before."""
        return None if self.request.after is None else (self.round_number, self.request.after)


class WorkloadSupply:
    """A named workload.

    Raises:
        ValueError: there is no such workload, or it cannot be asked of this server.
    """

    def __init__(self, settings: Settings, target: Target, served: Served, share: Share) -> None:
        self._settings = settings
        self._target = target
        self._served = served
        self._share = share
        # Beside the other greenlets: locust takes a process for lost that is silent for seconds.
        self._first = _checked(gevent.get_hub().threadpool.apply(self._draw, (0,)))
        adapters = Counter(each.adapter for each in self._first.requests if each.adapter)
        tenants = Counter(each.tenant for each in self._first.requests if each.tenant)
        self._adapter_groups = most_asked(adapters, OTHER_ADAPTERS)
        self._tenant_groups = most_asked(tenants, OTHER_TENANTS)
        self._known_adapters: list[str] = []
        self._check()

    def requests(self) -> Iterator[Planned]:
        """Its share in the order of arrival."""
        for number, offset_s, workload in self._rounds():
            names = self._names(workload)
            for request in take_share(workload.requests, self._share.index, self._share.count):
                yield Planned(
                    request=request,
                    at_s=offset_s + request.arrival_s,
                    round_number=number,
                    names=names,
                )

    def conversations(self) -> Iterator[Iterable[Ask]]:
        """Its share without times: what one user asks in a row, each as it is needed."""
        for number, _, workload in self._rounds():
            names = self._names(workload)
            mine = conversations(workload.requests)[self._share.index :: self._share.count]
            for talk in mine:
                yield (
                    self.write(Planned(request=each, at_s=0, round_number=number, names=names))
                    for each in talk
                )

    def write(self, planned: Planned) -> Ask:
        """The request itself. A workload that is drawn again has other prompts."""
        request = planned.request
        prompt = PromptWriter(self._share.prompt_seed + planned.round_number).text(request)
        tenant = request.tenant
        return Ask(
            path=self._target.endpoint.path,
            body=self._target.body(
                planned.names[request.adapter], prompt, request.num_output_tokens
            ),
            headers=_headers(self._target, tenant),
            group=self._adapter_groups.of(request.adapter) if request.adapter else BASE,
            tenant_group=f"tenant {self._tenant_groups.of(tenant)}" if tenant else None,
        )

    def _rounds(self) -> Iterator[tuple[int, float, Workload]]:
        """The workload and, if it is to be repeated, those of the seeds after its own, without end.

        Each with its number and start. The next one is drawn beside the load test, or requests
        would be late for it.
        """
        number, offset_s, workload = 0, 0.0, self._first
        while self._settings.repeats:
            drawn = gevent.get_hub().threadpool.spawn(self._draw, number + 1)
            yield number, offset_s, workload
            number, offset_s = number + 1, offset_s + _last_arrival_s(workload)
            workload = _checked(drawn.get())
        yield number, offset_s, workload

    def _draw(self, number: int) -> Workload | ValueError | OSError:
        """In a thread, of which gevent would print the errors."""
        settings = self._settings
        try:
            return make_workload(settings.workload, settings.parameters, settings.seed + number)
        except (ValueError, OSError) as error:
            return error

    def _names(self, workload: Workload) -> dict[str | None, str]:
        """An adapter keeps the model that it had in the rounds before."""
        self._known_adapters = list(dict.fromkeys([*self._known_adapters, *workload.adapters]))
        return model_names(
            self._known_adapters, self._served.names, self._served.base, self._target.template
        )

    def _check(self) -> None:
        self._names(self._first)
        if not self._first.requests:
            raise ValueError(f"Workload {self._settings.workload} has no requests.")
        is_endless = self._settings.repeats and self._settings.is_open_loop
        if is_endless and _last_arrival_s(self._first) == 0:
            raise ValueError(
                f"Workload {self._settings.workload} cannot be repeated in an open loop: all of "
                "its requests arrive at once."
            )


class MixSupply:
    """Example prompts, to models by their weights, without end.

    Args:
        share: makes processes draw apart from each other.
    """

    def __init__(self, mix: Mix, target: Target, max_tokens: int, share: Share) -> None:
        self._mix = mix
        self._target = target
        self._max_tokens = max_tokens
        self._rng = random.Random(share.prompt_seed + share.index)
        self._groups: Groups = most_asked(mix.weights, OTHER_ADAPTERS)

    def conversations(self) -> Iterator[Sequence[Ask]]:
        """One request each."""
        while True:
            model, prompt = self._mix.draw(self._rng)
            yield [
                Ask(
                    path=Endpoint.CHAT.path,
                    body=self._target.body(model, prompt, self._max_tokens),
                    headers=_headers(self._target, None),
                    group=self._groups.of(model),
                )
            ]


def _checked(drawn: Workload | ValueError | OSError) -> Workload:
    if isinstance(drawn, Exception):
        raise drawn
    return drawn


def _headers(target: Target, tenant: str | None) -> dict[str, str]:
    key = authorization(target.key_of(tenant))
    return {"Content-Type": "application/json", "Accept-Encoding": "identity", **key}


def _last_arrival_s(workload: Workload) -> float:
    return max(request.arrival_s for request in workload.requests)
