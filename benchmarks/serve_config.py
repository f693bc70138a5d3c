"""`motet serve` with options that its command line does not have, for what benchmarks compare.

Run: python -m benchmarks.serve_config ENGINE_CONFIG --adapter-dir DIR --port PORT
     [--engine-module benchmarks.merge_and_swap.engine] [--keys-file FILE]

ENGINE_CONFIG is an `EngineConfig` as JSON. Everything else is as in `motet serve`.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from motet.core.config import EngineConfig
from motet.server.config import ServeConfig
from motet.server.run import run

# What waits is for the policy to say, not for the bound on the queue.
_MAX_QUEUED = 1_000_000
MERGE_AND_SWAP = "benchmarks.merge_and_swap.engine"


def serve_config_command(
    config: EngineConfig,
    adapter_dir: Path,
    engine_module: str | None = None,
    keys_file: Path | None = None,
) -> list[str]:
    """The command that serves so; `--port` is to be added.

    Args:
        engine_module: the engine's program, such as `MERGE_AND_SWAP`; None is the usual one.
        keys_file: who may ask; None is anyone.
    """
    engine = msgspec.json.encode(config).decode()
    command = [sys.executable, "-m", __name__, engine, "--adapter-dir", str(adapter_dir)]
    if engine_module is not None:
        command += ["--engine-module", engine_module]
    if keys_file is not None:
        command += ["--keys-file", str(keys_file)]
    return command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("--adapter-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-module", default="motet.engine.process")
    parser.add_argument("--keys-file", type=Path)
    arguments = parser.parse_args()
    engine = msgspec.json.decode(arguments.engine, type=EngineConfig)
    config = ServeConfig(
        engine=engine,
        port=arguments.port,
        adapter_dir=arguments.adapter_dir,
        keys_file=arguments.keys_file,
        max_queued=_MAX_QUEUED,
    )
    run(config, engine_command=[sys.executable, "-m", arguments.engine_module])


if __name__ == "__main__":
    main()
