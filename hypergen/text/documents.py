"""Index the documents of a .txt file by their byte ranges, and cut a long one in two.

A line `<|endoftext|>` stands between two documents; without such lines the file is one. Imports neither torch nor
transformers.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import pairwise

from hypergen.data.compressed import Content
from hypergen.data.lazy import Indexed
from hypergen.errors import InputError
from hypergen.runtime.console import warn
from hypergen.storage.line_reader import skip_byte_order_mark

CHUNK = 1024 * 1024  # bytes read at a time
FIRST_LOOK = 4096  # bytes in which nearly every document has some text
SEPARATOR = re.compile(rb"(?<![^\r\n])<\|endoftext\|>(?![^\r\n])")  # a line of its own
OVERLAP = len(b"\n<|endoftext|>")  # bytes of a chunk in which one may have begun, and its surroundings
LONGEST = 16 * 2**20  # bytes of one document; a longer one is read in parts
CHARACTERS_PER_TOKEN = 4  # of English, about
HELD_OUT_SHARE = 4  # at most the last quarter of a text is cut off


def index_documents(content: Content) -> Indexed:
    """Check a file's encoding, and remember where its documents lie: -> documents that are read when they are needed.

    Blank ones are left out; a document longer than LONGEST comes in parts that end with a line.

    Raises:
        InputError: a NUL or a byte that is not UTF-8, with its place in the file.
    """
    documents = Indexed(content, _decode)
    parts = longest = 0
    for start, end in list(_ranges(content)):
        longest = max(longest, end - start)
        for place in _parts(content, start, end):
            parts += end - start > LONGEST
            if _has_text(content, *place):
                documents.add(*place)
    if parts:
        size = f"a document of {longest:,} bytes, which is longer than {LONGEST // 2**20} MiB"
        warn(f"{content.name}: has {size}, and is read in parts; lines <|endoftext|> part it where you want")
    return documents


def cut_end(text: str, count: int, length: int) -> tuple[str, str] | None:
    """Cut off the end of a text, at most a quarter: about `count` sequences of `length` tokens; None where it is short.

    The cut is at the end of a line, or else of a word.
    """
    size = min(len(text) // HELD_OUT_SHARE, count * length * CHARACTERS_PER_TOKEN)
    if size < length:
        return None
    first = len(text) - size
    found = (text.find(sign, first, first + size // 2) for sign in "\n ")
    place = next((place for place in found if place >= 0), first)
    beginning, end = text[:place].rstrip(), text[place:].strip()
    return (beginning, end) if beginning and end else None


def _decode(content: bytes) -> str:
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def _has_text(content: Content, start: int, end: int) -> bool:
    """Tell whether there is more than white space, from as few bytes as that takes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    borders = [start, *range(min(start + FIRST_LOOK, end), end, CHUNK), end]
    return any(decoder.decode(content.read(first, last)).strip() for first, last in pairwise(borders))


def _parts(content: Content, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a byte range into parts of at most LONGEST, behind a line end, a space or at least a whole character."""
    while end - start > LONGEST:
        first = start + LONGEST - CHUNK
        last = content.read(first, start + LONGEST)
        cut = max(last.rfind(b"\n"), 0) or last.rfind(b" ")
        if cut < 0:
            cut = next(place for place in range(len(last) - 1, -1, -1) if last[place] & 0xC0 != 0x80) - 1
        yield start, first + cut + 1
        start = first + cut + 1
    yield start, end


def _ranges(content: Content) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges between the separators, while the encoding of all of the file is checked."""
    start: int | None = None
    scanned = place = 0
    window = b""
    for place, chunk in _checked_chunks(content):
        start = place if start is None else start
        first, window = place - len(window), window + chunk
        border = place + len(chunk) - (1 if chunk else 0)  # the byte behind a separator must be known
        for match in SEPARATOR.finditer(window):
            if scanned < first + match.end() <= border:
                yield start, first + match.start()
                start = first + match.end()
        scanned, window = border, window[-OVERLAP:]
    if start is not None:
        yield start, place


def _checked_chunks(content: Content) -> Iterator[tuple[int, bytes]]:
    """Yield place and bytes of each chunk, and of the end of the file; a NUL or a bad byte ends it before more is read.

    Raises:
        InputError: with the byte's place in the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with content.scan() as file:
        start = skip_byte_order_mark(file)
        while True:
            chunk = file.read(CHUNK)
            if b"\0" in chunk:
                raise InputError(f"{content.name}: has a NUL byte at byte {start + chunk.index(0)} of the file")
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = start - waiting + error.start
                raise InputError(f"{content.name}: not UTF-8 at byte {place} of the file") from None
            yield start, chunk
            if not chunk:
                return
            start += len(chunk)
