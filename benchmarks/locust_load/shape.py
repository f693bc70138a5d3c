"""Makes locust follow the shape of a load test, and end it when it is over.

Owns: how many users there are at each moment.
Does not know: shapes (`shapes.py`), and how processes are told to stop (`session.py`).

It is there without a shape too: locust's web page can choose a shape only so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from locust import LoadTestShape

from benchmarks.locust_load.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Course:
    """What the users' number comes from.

    Attributes:
        shape: None if the load stays the same.
        num_users: at factor one.
        spawn_rate: users that start in a second, where the shape does not say it.
        run_time_s: the load test ends then; None if nothing but the shape and the work end it.
        num_processes: each has at least one user.
        is_open_loop: each process has one user, its clock.
    """

    shape: Shape | None
    num_users: int
    spawn_rate: float
    run_time_s: float | None
    num_processes: int
    is_open_loop: bool

    def users_at(self, at_s: float) -> tuple[int, float] | None:
        """How many users there are to be, and how many of them start in a second; None at the end.

        With a shape they come and go at once: it says itself how fast.
        """
        if self.run_time_s is not None and at_s >= self.run_time_s:
            return None
        factor = 1.0 if self.shape is None else self.shape.factor_at(at_s)
        if factor is None:
            return None
        if self.is_open_loop:
            return self.num_processes, self.num_processes
        count = max(self.num_processes, round(self.num_users * factor))
        return count, self.spawn_rate if self.shape is None else max(self.spawn_rate, count)


class LoadShape(LoadTestShape):
    """Follows a course; locust asks it once a second.

    Args:
        course: of the load test as it is chosen at the moment.
        is_over: whether everything has been asked and has ended.
        on_time_up: called once when the course has come to its end; requests may still be running.
    """

    use_common_options = True

    def __init__(
        self,
        course: Callable[[], Course],
        is_over: Callable[[], bool],
        on_time_up: Callable[[], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # it has no annotations
        self._course = course
        self._is_over = is_over
        self._on_time_up = on_time_up
        self._last: tuple[int, float] = (1, 1.0)
        self._is_time_up = False

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]  # it has no annotations
        self._is_time_up = False

    def tick(self) -> tuple[int, float] | None:
        if self._is_over():
            return None
        run_time_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # likewise
        users = self._course().users_at(run_time_s)
        if users is not None:
            self._last = users
        elif not self._is_time_up:
            self._is_time_up = True
            self._on_time_up()
        return self._last
