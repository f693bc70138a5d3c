"""The token that was sampled last for each running sequence, on the device.

Owns: these tokens, from the step that samples them to the one that reads them.
Does not know: whether the host has them yet, too.
"""

import torch
from torch import Tensor

from motet.engine.batch_arrays import BatchArrays
from motet.engine.transfer import upload


class LastTokens:
    """A token for each row of the page table.

    Args:
        num_rows: rows of the page table.
        device: where the steps run.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._tokens = torch.zeros(num_rows, dtype=torch.int64, device=device)

    def keep(self, arrays: BatchArrays, token_ids: Tensor) -> None:
        """Take what was sampled for the sampling chunks of a batch, as computed."""
        rows = upload(arrays.rows[arrays.samples], torch.int64, self._tokens.device)
        self._tokens.index_copy_(0, rows, token_ids)

    def fill_in(self, arrays: BatchArrays, token_ids: Tensor) -> None:
        """Put the tokens that a batch awaits in their places among its tokens."""
        if not arrays.awaits.any():
            return
        rows = upload(arrays.rows[arrays.awaits], torch.int64, self._tokens.device)
        places = upload(arrays.awaited, torch.int64, self._tokens.device)
        token_ids.index_copy_(0, places, self._tokens.index_select(0, rows))
