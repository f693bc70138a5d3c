"""Locust's user.

Owns: nothing but the way from locust to the loop.
Does not know: which loop it is.
"""

from typing import ClassVar

from locust import User, constant, task
from locust.exception import StopUser

from benchmarks.locust_load.loops import Loop


class LoadUser(User):
    """Plays the loop: in a closed one as one client of the server, in an open one as its clock."""

    wait_time = constant(0)

    # Set at each start of a load test, before its first user; None if it cannot be done.
    loop: ClassVar[Loop | None] = None

    @task
    def play(self) -> None:
        if self.loop is None:
            raise StopUser
        self.loop.play()
