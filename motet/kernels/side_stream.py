"""A stream beside the current one, for work that does not depend on what runs there meanwhile.

Owns: the order between the two streams.
Does not know: what is launched.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class SideStream:
    """Runs one thing at a time beside the current stream: `fork`, other launches, `join`.

    Both only record and wait for events on the device. A capture takes the two streams as branches
    of its graph.

    Every fork has to be joined before the next one. Then no tensor needs the allocator's
    `record_stream`: what a fork allocates belongs to the side stream and can be reused only by a
    later fork, which waits for everything the current stream was given before, all readers of the
    result among them; what the fork reads must be kept until the join, after which the current
    stream, to which it belongs, runs behind the side stream.

    It belongs to the CUDA device that is current when it is made.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def fork(self, launch: Callable[[], Tensor]) -> Tensor:
        """Launch behind what the current stream has so far; the result is not ready before `join`.

        Args:
            launch: allocates its results itself, on the stream that is current when it is called.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            return launch()

    def join(self) -> None:
        """Have what the current stream is given from now on wait for what was forked."""
        torch.cuda.current_stream().wait_stream(self._stream)
