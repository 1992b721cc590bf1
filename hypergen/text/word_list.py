"""Write, find and read word lists: what the texts that a base was trained on have taught it, for `known_words`.

A list is gzipped text in UTF-8, one word a line, in the order of code points. The card of a base names its file under
`words`, and says what it is: {"file": "words.txt.gz", "from": "seen at least twice in ..."}.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, final

from hypergen.data.compressed import Unpacker
from hypergen.errors import InputError
from hypergen.runtime.console import sanitize
from hypergen.storage.atomic import disk_errors, write_file
from hypergen.storage.file_names import RECORD
from hypergen.storage.line_reader import check_length, lines_of
from hypergen.storage.run_folder import renew
from hypergen.storage.strict_json import read_optional
from hypergen.text import named_bases
from hypergen.text.config import NAME
from hypergen.text.known_words import words_of

FILE = "words.txt.gz"  # beside the card, by default
LEAST_COUNT = 2  # a word that a corpus has once may be a slip of the pen or of the scanner
NO_LIST = "not measured: the card of the base names no word list"


@final
class WordList:
    """Hold the list of a base, whose file is read when its words are first asked for."""

    def __init__(self, path: Path, origin: str):
        """Name the file and, in words, what is in it."""
        self.path, self.origin = path, origin

    @cached_property
    def words(self) -> frozenset[str]:
        """The words, read once."""
        return read_words(self.path)

    def describe(self) -> str:
        """Say what the share of known words rests on."""
        return f"share of words in a list of {len(self.words):,}: {sanitize(self.origin)}; cut words do not count"


def write_words(path: Path, counts: Mapping[str, int], least: int = LEAST_COUNT) -> int:
    """Write the words that were counted at least `least` times (`known_words.count_words`), and return their number.

    The same words give the same bytes.
    """
    words = sorted(word for word, count in counts.items() if count >= least)
    content = gzip.compress("".join(f"{word}\n" for word in words).encode(), mtime=0)
    write_file(path, lambda temporary: temporary.write_bytes(content))
    return len(words)


def add_words(folder: Path, counts: Mapping[str, int], origin: str, least: int = LEAST_COUNT) -> int:
    """Give a base a word list: write it into its folder, name it in the card there, and return the number of words.

    The manifest of the folder, where there is one, lists both files anew.

    Args:
        folder: of the base.
        counts: as for `write_words`.
        origin: what the words are of, in words.
        least: as for `write_words`.
    """
    count = write_words(folder / FILE, counts, least)
    card = {**(read_optional(folder / RECORD) or {}), "words": {"file": FILE, "from": origin}}
    write_file(folder / RECORD, lambda temporary: temporary.write_text(json.dumps(card, indent=1), encoding="utf-8"))
    renew(folder, [FILE, RECORD])
    return count


def read_words(path: Path) -> frozenset[str]:
    """Read a word list strictly.

    Raises:
        InputError: it cannot be read or unpacked, has no word, or a line is not one word that follows the one before.
    """
    words: list[str] = []
    with disk_errors(path):
        content = Unpacker().open(path)
        with content.open() as file:
            for number, _, line in lines_of(str(path), file, blank=True):
                word = _word(f"{path}:{number}", line)
                if words and word <= words[-1]:
                    raise InputError(f"{path}:{number}: must stand behind the word before it, by code points, and once")
                words.append(word)
    if not words:
        raise InputError(f"{path}: has no word")
    return frozenset(words)


def find_words(source: str) -> WordList | None:
    """Find the word list of a base, or for a run that of the base it goes back to; None where no card names one.

    Args:
        source: a folder, whose `hypergen.json` is its card, a named base, whose list is the embedded base's, or
            anything else that `load` takes.

    Raises:
        InputError: a card names it in another form than that above, or the file is not there.
    """
    seen: set[str] = set()  # records may name each other in a circle
    while source not in seen:
        seen.add(source)
        named = named_bases.card(source)
        folder = embedded_folder() if named else Path(source).expanduser()
        card = named or read_optional(folder / RECORD) or {}
        if card.get("words") is not None:
            return _listed(card["words"], folder)
        base = card.get("base")
        source = str(embedded_folder()) if base == NAME else base if isinstance(base, str) else source
    return None


def _listed(entry: Any, folder: Path) -> WordList:
    """Read the entry `words` of the card in a folder."""
    where = f"{folder / RECORD}: 'words'"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "from")):
        raise InputError(f"{where}: must be an object with the strings 'file' and 'from'")
    path = folder / entry["file"]
    with disk_errors(folder):
        if path.parent != folder or not path.is_file():
            raise InputError(f"{where}: 'file' must be the name of a word list in {folder}")
    return WordList(path, entry["from"])


def embedded_folder() -> Path:
    """Find the folder of the embedded text base, whose word list the named bases share."""
    return Path(str(resources.files("hypergen") / "assets" / "text-base"))


def _word(where: str, line: bytes) -> str:
    check_length(where, line)
    try:
        word = line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not UTF-8") from None
    if words_of(word) != [word]:
        raise InputError(f"{where}: must be one word in lower case")
    return word
