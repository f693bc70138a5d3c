"""`motet serve` with options that its command line does not have, for what benchmarks compare.

Run: python -m benchmarks.serve_config ENGINE_CONFIG --adapter-dir DIR --port PORT
     [--engine-module benchmarks.merge_and_swap.engine]

ENGINE_CONFIG is an `EngineConfig` as JSON. Everything else is as in `motet serve`.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from motet.core.config import EngineConfig
from motet.server.config import ServeConfig
from motet.server.run import run

MERGE_AND_SWAP = "benchmarks.merge_and_swap.engine"


def serve_config_command(
    config: EngineConfig, adapter_dir: Path, engine_module: str | None = None
) -> list[str]:
    """The command that serves so; `--port` is to be added.

    Args:
        engine_module: the engine's program, such as `MERGE_AND_SWAP`; None is the usual one.
    """
    engine = msgspec.json.encode(config).decode()
    command = [sys.executable, "-m", __name__, engine, "--adapter-dir", str(adapter_dir)]
    return command if engine_module is None else [*command, "--engine-module", engine_module]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("--adapter-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-module", default="motet.engine.process")
    arguments = parser.parse_args()
    engine = msgspec.json.decode(arguments.engine, type=EngineConfig)
    config = ServeConfig(engine=engine, port=arguments.port, adapter_dir=arguments.adapter_dir)
    run(config, engine_command=[sys.executable, "-m", arguments.engine_module])


if __name__ == "__main__":
    main()
