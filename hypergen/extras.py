"""Libraries that only some measures need: imported on use, named in one line where they are missing.

Does not know: what a measure does with them.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from hypergen.errors import InputError

EXTRAS = {"sacrebleu": "text-measures", "mauve": "mauve", "torchmetrics": "image-measures"}  # module -> our extra


def is_installed(module: str) -> bool:
    """Whether the library of this module is there; nothing is imported."""
    return find_spec(module) is not None


def how_to_install(module: str) -> str:
    """`needs sacrebleu (pip install 'hypergen[text-measures]')`."""
    return f"needs {module} (pip install 'hypergen[{EXTRAS[module]}]')"


def load(module: str, measure: str) -> Any:
    """The module `module` (or one inside it) of an optional library.

    Args:
        measure: what needs it, for the message.

    Raises:
        InputError: the library is not installed.
    """
    root = module.split(".")[0]
    if not is_installed(root):
        raise InputError(f"{measure}: {how_to_install(root)}")
    return importlib.import_module(module)
