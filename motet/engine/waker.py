"""A way for any thread to end the engine loop's sleep.

Owns: a pipe.
Does not know: what there is to wake up for.
"""

import os


class Waker:
    """A pipe that ends a poll: any thread writes, the engine loop watches `fd` and drains it."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)

    def wake(self) -> None:
        """Make `fd` readable. Safe from any thread."""
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:
            return  # the pipe is full of wake-ups that were not drained yet

    def drain(self) -> None:
        """Make `fd` unreadable until the next `wake`."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            return
