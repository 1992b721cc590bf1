"""What the tests of the readers share."""

from __future__ import annotations

from hypergen.data.compressed import Unpacker
from hypergen.data.rows import text_of


def refuse(error):
    raise error


def content_of(path):
    return Unpacker().open(path)


def text(field="text"):
    return lambda where, row: text_of(where, row, field)


def read(reader, path, content, field="text", skip=refuse):
    """The texts that a reader finds in a file with this content."""
    path.write_bytes(content)
    return list(reader(content_of(path), text(field), skip))


def counted(monkeypatch):
    """Counts the bytes that items take from their files, from now on."""
    from hypergen.data.compressed import Content

    ranges = []
    original = Content.read

    def read_range(self, start, end):
        ranges.append(end - start)
        return original(self, start, end)

    monkeypatch.setattr(Content, "read", read_range)
    return ranges
