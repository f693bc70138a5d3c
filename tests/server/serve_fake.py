"""`motet serve` over the fake engine, for tests that need a process: arguments are the CLI's."""

import functools
import os
from pathlib import Path

from motet.server import run
from motet.server.cli import app
from tests.server.running_server import fake_engine_command

if __name__ == "__main__":
    command = fake_engine_command(
        Path(os.environ["FAKE_LOG"]), step_s=os.environ.get("FAKE_STEP_S", "0.001")
    )
    run.serve = functools.partial(run.serve, engine_command=command)
    app()
