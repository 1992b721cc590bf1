"""Load benchmark scripts as `python benchmarks/NAME.py` does: shared by the tests of the benchmarks."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
RECORDS = FOLDER / "records"


def load(name):
    """The module of a script; the scripts beside it are found as when it runs, and loaded once."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
