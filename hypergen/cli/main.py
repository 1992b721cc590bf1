"""Run the command line: parse one command, call it, and turn each known failure into one line and its exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

from hypergen.cli.commands import parse, run
from hypergen.errors import DiskError, HypergenError, Interrupted, in_flags
from hypergen.runtime.console import STANDARD_ERROR, as_message
from hypergen.runtime.dependencies import require_versions
from hypergen.runtime.signals import SignalWatch

LONGEST_MESSAGE = 2000  # characters; a file may hold any value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (see `hypergen.errors`)."""
    _be_able_to_print()
    code = _run(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stderr.flush()
    except OSError:  # what waits to be written would fail once more, at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _run(arguments: list[str]) -> int:
    try:
        with in_flags(), SignalWatch():
            command = parse(arguments)
            require_versions()
            run(command)
            sys.stdout.flush()
    except (HypergenError, Interrupted) as error:
        print(as_message(str(error))[:LONGEST_MESSAGE], file=STANDARD_ERROR)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone; nobody is to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        print(f"hypergen: standard output: {error.strerror}", file=STANDARD_ERROR)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what waits to be written would fail once more
        return DiskError.exit_code
    return 0


def _be_able_to_print() -> None:
    """Make both streams writable: replace a closed one by the null device, escape what an encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
