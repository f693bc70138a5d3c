"""Routing as JSON: which experts each token of an answer came from.

Owns: the keys of these objects, and the names of experts in them.
Does not know: which tokens are told of (`shown_tokens.py`), nor how weights come about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from motet.core.messages import AdapterInfo, RoutedSetInfo
from motet.server.errors import bad_request
from motet.server.shown_tokens import ShownToken
from motet.server.token_pieces import TokenPieces, printable

Json = dict[str, Any]

_NUM_DIGITS = 4  # of a weight: an average over many projections is not known to more


def require_routed_set(info: AdapterInfo | None) -> RoutedSetInfo:
    """What a request with `return_routing` runs on. Raises MotetError (400): no routed set."""
    if info is None or info.routed is None:
        raise bad_request(
            "'return_routing' is for routed sets, and this model chooses among no experts. Name a "
            "routed set as 'model' (GET /v1/models says of each model what kind it is), or leave "
            "it out.",
            "return_routing",
        )
    return info.routed


def routing_json(
    tokens: Iterable[ShownToken], routed: RoutedSetInfo, pieces: TokenPieces, prefix: str = ""
) -> list[Json]:
    """`choices[].routing`: each token with the weights of its experts, the largest first.

    What has no weight is left out. Where a router gates ranks, they are named by number from 0.

    Args:
        prefix: comes before the bytes of a token that is a part of a character.
    """
    return [
        {
            "token": printable(pieces.of(token.token_id), prefix),
            "experts": _weights(token.routing, routed),
        }
        for token in tokens
        if token.routing is not None
    ]


def _weights(weights: list[float], routed: RoutedSetInfo) -> dict[str, float]:
    names = map(str, range(len(weights))) if routed.by_rank else routed.names
    rounded = ((name, round(each, _NUM_DIGITS)) for name, each in zip(names, weights, strict=True))
    told = [(name, each) for name, each in rounded if each]
    return dict(sorted(told, key=lambda item: -item[1]))
