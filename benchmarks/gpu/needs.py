"""Which packages are missing: the first thing to know on a machine without a network.

Run as `python -m benchmarks.gpu.needs`: it says nothing and exits with 0, or it names what is
missing, and how to give it, and exits with 2. `--names` prints the missing packages alone.
"""

import importlib.util
import sys
from collections.abc import Mapping

# What the kernels and the engine import, and the package that brings it.
PACKAGES: Mapping[str, str] = {
    "torch": "torch",
    "triton": "triton",
    "numpy": "numpy",
    "filelock": "filelock",
    "llguidance": "llguidance",
    "msgspec": "msgspec",
    "psutil": "psutil",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "typing_extensions": "typing-extensions",
}


def missing_packages() -> list[str]:
    """Those of `PACKAGES` that this interpreter does not find."""
    return [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]


def main() -> None:
    missing = missing_packages()
    if sys.argv[1:] == ["--names"]:
        print(*missing)
    elif missing:
        sys.exit(
            f"Missing: {' '.join(missing)}. Put their wheels for this Python into a folder and "
            "set WHEELS to it; `pip download` fetches them where there is a network."
        )


if __name__ == "__main__":
    main()
