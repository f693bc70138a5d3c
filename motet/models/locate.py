"""Prints the directory of a model: `python -m motet.models.locate [MODEL]`.

Owns: nothing. It lets the API process, which holds no tensors and imports no torch, have a model
fetched or converted by a process that ends afterwards.
"""

import sys

from motet.core.errors import ModelError
from motet.models.loader import resolve_model_dir


def main() -> int:
    """Print the resolved directory as the last line, or the error, and return the exit status."""
    model = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        print(resolve_model_dir(model))
    except ModelError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
