"""`motet serve` with options that its command line does not have, for what benchmarks compare.

Run: python -m benchmarks.serve_config ENGINE_CONFIG --adapter-dir DIR --port PORT

ENGINE_CONFIG is an `EngineConfig` as JSON. Everything else is as in `motet serve`.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from motet.core.config import EngineConfig
from motet.server.config import ServeConfig
from motet.server.run import run


def serve_config_command(config: EngineConfig, adapter_dir: Path) -> list[str]:
    """The command that serves so; `--port` is to be added."""
    engine = msgspec.json.encode(config).decode()
    return [sys.executable, "-m", __name__, engine, "--adapter-dir", str(adapter_dir)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("--adapter-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    engine = msgspec.json.decode(arguments.engine, type=EngineConfig)
    run(ServeConfig(engine=engine, port=arguments.port, adapter_dir=arguments.adapter_dir))


if __name__ == "__main__":
    main()
