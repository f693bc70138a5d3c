"""What routers chose, as pairs: as it stands, or grouped by expert.

Owns: the list of choices, and how it becomes `LoraPairs` without a wait for the device.
Does not know: how choices are made.

The list is [round, sibling, token]: in round r each token has, in each projection, its r-th choice,
of which there are as many rounds as the batch's sets choose at most. So the number of pairs is
known to the host. A choice that is not there has no sibling in its mask, and costs a program that
ends at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from motet.kernels.types import LoraPairs, Round, RoutedTokens


@dataclass(frozen=True, slots=True)
class Choices:
    """All choices of a batch in one layer. Each is [num_rounds * num_siblings * num_tokens].

    Attributes:
        slots: int32. Slot of the expert; any where there is none.
        weights: float32.
        masks: int32. The bit of the sibling; 0 where there is no choice.
        keys: int32. Ascending by round, expert and sibling; the choices that are not there come
            last in their round.
    """

    slots: Tensor
    weights: Tensor
    masks: Tensor
    keys: Tensor


def empty_choices(routed: RoutedTokens, num_siblings: int) -> Choices:
    """Room for the choices."""
    num_choices = routed.max_choices * num_siblings * routed.gates.num_pairs
    device = routed.sets.device
    slots, masks, keys = torch.empty(3, num_choices, dtype=torch.int32, device=device).unbind()
    weights = torch.empty(num_choices, dtype=torch.float32, device=device)
    return Choices(slots, weights, masks, keys)


def gathered_pairs(choices: Choices, routed: RoutedTokens) -> LoraPairs:
    """The choices as they stand, each a segment of its own: for a few tokens."""
    num_pairs = len(choices.slots)
    in_round = num_pairs // routed.max_choices
    device = choices.slots.device
    return LoraPairs(
        tokens=routed.gates.tokens.repeat(num_pairs // routed.gates.num_pairs),
        slots=choices.slots,
        weights=choices.weights,
        segment_starts=torch.arange(num_pairs + 1, dtype=torch.int32, device=device),
        max_rank=routed.max_rank,
        siblings=choices.masks,
        rounds=tuple(Round(r * in_round, r * in_round) for r in range(routed.max_choices)),
    )


def grouped_pairs(
    choices: Choices, routed: RoutedTokens, num_siblings: int
) -> tuple[LoraPairs, Tensor]:
    """The choices sorted by round, expert and sibling; a segment for each of these, even if empty.

    Returns:
        The pairs, and int64 [num_pairs]: of each pair, where it stood in the list.
    """
    num_pairs = len(choices.slots)
    in_round = num_pairs // routed.max_choices
    segments_in_round = num_segments_in_round(routed, num_siblings)
    keys, order = choices.keys.sort(stable=True)
    num_segments = routed.max_choices * segments_in_round
    bounds = torch.arange(num_segments + 1, dtype=torch.int32, device=keys.device)
    pairs = LoraPairs(
        tokens=routed.gates.tokens[order % routed.gates.num_pairs],
        slots=choices.slots[order],
        weights=choices.weights[order],
        segment_starts=torch.searchsorted(keys, bounds, out_int32=True),
        max_rank=routed.max_rank,
        siblings=choices.masks[order],
        rounds=tuple(Round(r * segments_in_round, r * in_round) for r in range(routed.max_choices)),
    )
    return pairs, order


def num_segments_in_round(routed: RoutedTokens, num_siblings: int) -> int:
    """One for each expert of each set in each projection, and one for the lack of a choice."""
    return (routed.expert_slots.numel() + 1) * num_siblings
