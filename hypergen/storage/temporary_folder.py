"""Make temporary folders that carry a mark, and remove no others: a user's own may begin like them.

The mark is a file with the record of the process and, in a second line, the name of what is made. It lies beside the
content, so that it is there until the last moment; what has neither mark nor content is nobody's loss.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hypergen.storage.file_names import CHECKPOINTS, MARK, TEMPORARY
from hypergen.storage.own_file import process_record, read_record


def make_marked(parent: Path, target: str) -> Path:
    """Make a temporary folder for something that will be called `target`."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
    try:
        (folder / MARK).write_bytes(process_record().encode() + os.fsencode(target))
    except BaseException:
        remove_marked(folder)
        raise
    return folder


def is_marked(folder: Path, target: str | None = None) -> bool:
    """Tell whether a folder is a temporary one of hypergen, for `target` if that is given."""
    if not folder.name.startswith(TEMPORARY) or folder.is_symlink() or not folder.is_dir():
        return False
    record = read_record(folder / MARK)
    return _is_unused(folder, target) if record is None else target in (None, _target(record))


def _is_unused(folder: Path, target: str | None) -> bool:
    """Tell whether its process was killed at once; beside a path that others write, too, that cannot be known."""
    return target is None and not any(folder.iterdir())


def _target(record: bytes) -> str:
    return os.fsdecode(record.partition(b"\n")[2])


def remove_marked(folder: Path) -> None:
    """Remove a temporary folder as far as possible; the mark goes last, so that what is left of it is known as ours."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != MARK:
                remove(path)
        remove(folder / MARK)
        folder.rmdir()


def leftovers_for(path: Path) -> Iterator[Path]:
    """Find what processes killed while they made this file or folder left beside it."""
    return (one for one in path.parent.glob(f"{TEMPORARY}*") if is_marked(one, path.name))


def leftovers_in(run: Path) -> Iterator[Path]:
    """Find what killed processes left in a run folder."""
    for pattern in (f"{TEMPORARY}*", f"{CHECKPOINTS}/**/{TEMPORARY}*"):
        yield from filter(is_marked, run.glob(pattern))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
