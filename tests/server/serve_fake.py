"""`motet serve` over the fake engine, for tests that need a process: arguments are the CLI's."""

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from motet.server import run
from motet.server.cli import app
from motet.server.config import ServeConfig
from tests.server.running_server import fake_engine_command

if __name__ == "__main__":
    command = fake_engine_command(
        Path(os.environ["FAKE_LOG"]), step_s=os.environ.get("FAKE_STEP_S", "0.001")
    )
    serve = run.serve

    def serve_over_fake(config: ServeConfig, **others: Any) -> Coroutine[Any, Any, int]:
        return serve(config, **{**others, "engine_command": command})

    run.serve = serve_over_fake
    app()
