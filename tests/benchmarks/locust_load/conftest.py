"""Imports locust as it is for its parts alone: it must not patch the standard library here.

Nor may the processes that other tests start inherit that.
"""

import importlib

import pytest

with pytest.MonkeyPatch.context() as _patch:
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    importlib.import_module("locust")
