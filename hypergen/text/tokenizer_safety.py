"""Keep a tokenizer's file from ending the process: regular expressions that panic, normalizers that grow without end.

The library `tokenizers` is native code, and a file of anybody's tells it what to do. A panic is no `Exception` in
Python; memory that cannot be had ends the process, so a normalizer is judged before it is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypergen.errors import InputError
from hypergen.runtime.console import first_line

LARGEST_FILE = 2**28  # bytes
MOST_GROWTH = 1000.0  # characters that a normalizer may make of one
PANIC = "PanicException"  # the class of `pyo3_runtime` cannot be imported


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Turn a panic of native code into one line.

    Raises:
        InputError: there was one, most likely because a regular expression takes too many steps.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise InputError(f"{name}: its tokenizer fails ({first_line(error)})") from None


def check_normalizer(path: Path) -> None:
    """Refuse a `tokenizer.json` whose normalizer could make a short text fill the memory; any other file passes.

    Raises:
        InputError: one character could become more than MOST_GROWTH, or the file is too large to be judged.
    """
    if not path.is_file():
        return
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path}: is larger than {LARGEST_FILE // 2**20} MiB")
    content = path.read_bytes()
    if b'"Replace"' not in content and b"\\u" not in content:
        return
    try:
        whole = json.loads(content)
        growth = max(_growth(whole.get(part)) for part in ("normalizer", "decoder"))
    except (ValueError, AttributeError, TypeError, RecursionError):  # the library says better what is wrong
        return
    if growth > MOST_GROWTH:
        found = f"its normalizer or decoder can make {growth:.3g} characters of one"
        raise InputError(f"{path}: {found}; at most {MOST_GROWTH:g} are allowed")


def _growth(normalizer: Any) -> float:
    """Bound how many characters one can become; 1 where a step adds none."""
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if kind == "Sequence":
        product = 1.0
        for one in normalizer.get("normalizers") or normalizer.get("decoders") or ():
            product *= _growth(one)
        return product
    if kind == "Replace":
        replaced = normalizer["pattern"].get("String")
        most = len(normalizer["content"]) / len(replaced) if replaced else len(normalizer["content"]) + 1
        return max(1.0, most)
    return 1.0
