"""Ties a load test to locust's events, in one process or in several.

Owns: who does what when, and the messages between processes.
Does not know: how anything is done.

The master counts, workers ask; a process that is alone does both, and sends itself the messages.

    master                                   worker
    test_start: counts from nothing
      share {index, count}               ->  which part of the workload is its own
      (locust's message to start users)  ->  test_start: makes its loop
                                         <-  its counts, with locust's reports
      stop {grace_s}, when time is up    ->  sends nothing more, and gives up what is left after it
                                         <-  ended {error}, when all that it had sent has ended
    all have ended: locust's own end
"""

import logging
import random
import sys
from collections.abc import Mapping
from typing import Any

import gevent
import msgspec
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, MasterRunner, Runner, WorkerRunner

from benchmarks.locust_load.build import make_loop
from benchmarks.locust_load.client import Client
from benchmarks.locust_load.loops import Loop
from benchmarks.locust_load.options import Settings, read_settings
from benchmarks.locust_load.page import extend_page
from benchmarks.locust_load.report import Reporter
from benchmarks.locust_load.shape import Course, LoadShape
from benchmarks.locust_load.supply import Share
from benchmarks.locust_load.tally import Tally
from benchmarks.locust_load.users import LoadUser
from benchmarks.locust_load.verdict import misses, summary

_log = logging.getLogger(__name__)

_SHARE, _STOP, _ENDED = "motet_share", "motet_stop", "motet_ended"
_TALLY = "motet_tally"

_LONE = "local"  # locust's name for a process that sends messages to itself


def start_session(environment: Environment, **_: Any) -> None:
    """At locust's start: listen to it, and check what was chosen. Exits if it cannot be.

    On the web page it can be chosen anew, so there it is checked when it has been.
    """
    runner = environment.runner
    assert runner is not None
    assert environment.parsed_options is not None
    session = Session(environment, runner)
    if isinstance(runner, WorkerRunner):
        return
    if environment.web_ui is not None:
        extend_page(environment, session.check, session.summary)
        return
    try:
        session.check({})
    except (ValueError, OSError) as error:
        sys.exit(f"Cannot start the load test: {error}")


class Session:
    """The load tests of one process, one after another."""

    def __init__(self, environment: Environment, runner: Runner) -> None:
        self._environment = environment
        self._runner = runner
        self._settings: Settings | None = None  # before the first load test
        self._tally = Tally()
        self._share: Share | None = None
        self._loop: Loop | None = None
        self._ended: set[str] = set()  # processes
        self._errors: list[str] = []
        self._last_words: list[str] = []
        events = environment.events
        for hook, listener in (
            (events.test_start, self._on_test_start),
            (events.test_stopping, self._on_test_stopping),
            (events.test_stop, self._on_test_stop),
            (events.report_to_master, self._on_report_to_master),
            (events.worker_report, self._on_worker_report),
            (events.quitting, self._on_quitting),
            (events.quit, self._on_quit),
        ):
            hook.add_listener(listener)  # type: ignore[no-untyped-call]  # it has no annotations
        runner.register_message(_SHARE, self._on_share)
        runner.register_message(_STOP, self._on_stop, concurrent=True)
        runner.register_message(_ENDED, self._on_ended)
        environment.shape_class = LoadShape(self._course, self._is_over, self._on_time_up)

    def check(self, changes: Mapping[str, str]) -> None:
        """See whether a load test can be done.

        Args:
            changes: to the options, as texts.

        Raises:
            ValueError: it cannot be, with what was expected.
            OSError: a file cannot be read.
        """
        settings = self._read_settings(changes)
        make_loop(settings, _lone_share(), self._reporter(settings).send, self._send_ended)

    def summary(self) -> list[str]:
        """What there is to say so far."""
        if self._settings is None:
            return []
        missed = misses(self._tally, self._settings) if self._tally.num_finished else []
        return [*summary(self._tally, self._settings), *self._errors, *missed]

    def _read_settings(self, changes: Mapping[str, str]) -> Settings:
        chosen = vars(self._environment.parsed_options)
        return read_settings({**chosen, "host": self._environment.host, **changes})

    def _reporter(self, settings: Settings) -> Reporter:
        client = Client(settings.host)
        return Reporter(self._environment, client, settings.ttft_slo_s, self._tally)

    # All of them: the master and its workers each have these events.

    def _on_test_start(self, **_: Any) -> None:
        self._tally = Tally()
        self._errors = []
        self._settings = self._read_settings({})
        if isinstance(self._runner, MasterRunner):
            self._send_shares(self._runner)
        elif isinstance(self._runner, WorkerRunner):
            self._make_loop(self._settings, self._share)  # its message came before
        else:
            self._make_loop(self._settings, _lone_share())

    def _on_test_stop(self, **_: Any) -> None:
        self._ended = set()
        self._share = None

    # The master, or a lone process.

    def _send_shares(self, master: MasterRunner) -> None:
        prompt_seed = _new_seed()
        workers = [client.id for client in master.clients.ready]
        for index, worker in enumerate(workers):
            share = {"index": index, "count": len(workers), "prompt_seed": prompt_seed}
            master.send_message(_SHARE, share, worker)

    def _course(self) -> Course:
        settings = self._read_settings({})
        options = self._environment.parsed_options
        assert options is not None
        return Course(
            shape=settings.shape,
            num_users=options.num_users or 1,
            spawn_rate=options.spawn_rate or 1,
            run_time_s=options.run_time,
            num_processes=max(1, len(self._processes())),
            is_open_loop=settings.is_open_loop,
        )

    def _processes(self) -> set[str]:
        """Those that ask. One that was lost is none of them any more."""
        if not isinstance(self._runner, MasterRunner):
            return {_LONE}
        return {each.id for each in self._runner.clients.all if each.state != STATE_MISSING}

    def _is_over(self) -> bool:
        return bool(self._ended) and self._processes() <= self._ended

    def _on_time_up(self) -> None:
        grace_s = self._environment.stop_timeout
        gevent.spawn(self._runner.send_message, _STOP, {"grace_s": grace_s})

    def _on_ended(self, msg: Message, **_: Any) -> None:
        self._ended.add(msg.node_id)
        if error := msg.data["error"]:
            self._errors.append(f"Cannot do the load test: {error}")
            _log.error(self._errors[-1])

    def _on_worker_report(self, data: dict[str, Any], **_: Any) -> None:
        if counts := data.get(_TALLY):
            self._tally.add(msgspec.convert(counts, Tally))

    def _on_quitting(self, **_: Any) -> None:
        """Tell by the exit code whether what was demanded has come of it."""
        if isinstance(self._runner, WorkerRunner) or self._settings is None:
            return
        missed = [*self._errors, *misses(self._tally, self._settings)]
        self._last_words = [*summary(self._tally, self._settings), *missed]
        self._environment.process_exit_code = int(bool(missed))

    def _on_quit(self, **_: Any) -> None:
        """Say it in words, below locust's tables, which may be hundreds of lines."""
        print(*self._last_words, sep="\n", end="\n" if self._last_words else "")

    # A worker, or a lone process.

    def _on_share(self, msg: Message, **_: Any) -> None:
        self._share = Share(**msg.data)

    def _make_loop(self, settings: Settings, share: Share | None) -> None:
        LoadUser.loop = self._loop = None
        if share is None:
            self._send_ended("a process came too late to take part.")
            return
        send = self._reporter(settings).send
        try:
            self._loop = make_loop(settings, share, send, self._send_ended)
        except (ValueError, OSError) as error:
            self._send_ended(str(error))
        LoadUser.loop = self._loop

    def _on_stop(self, msg: Message, **_: Any) -> None:
        if self._loop is not None:
            self._loop.stop(msg.data["grace_s"])

    def _on_test_stopping(self, **_: Any) -> None:
        """Locust itself ends the users then, at once or after its own grace."""
        if self._loop is not None:
            gevent.spawn(self._loop.stop, self._environment.stop_timeout)

    def _send_ended(self, error: str | None = None) -> None:
        self._runner.send_message(_ENDED, {"error": error})

    def _on_report_to_master(self, data: dict[str, Any], **_: Any) -> None:
        data[_TALLY] = msgspec.to_builtins(self._tally.take())


def _lone_share() -> Share:
    return Share(index=0, count=1, prompt_seed=_new_seed())


def _new_seed() -> int:
    return random.getrandbits(32)
