"""Write the word list of a text base from its corpus: the words that stand in it at least twice.

    python benchmarks/word_list.py fiction/train.jsonl --output words.txt.gz

The base's card names the file, which lies beside it, under `words`; `evaluation` then has the share of known words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hypergen.runtime.progress import track
from hypergen.text.config import Settings
from hypergen.text.conversations import plain_text
from hypergen.text.known_words import count_words
from hypergen.text.sources import read
from hypergen.text.word_list import LEAST_COUNT, write_words


def main() -> None:
    """Count, write, and say how many words there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="any source of texts that --data takes")
    parser.add_argument("--output", type=Path, required=True, help="the .gz file")
    parser.add_argument("--text-field", default=Settings.text_field)
    parser.add_argument("--least", type=int, default=LEAST_COUNT, help="how often a word must be there")
    arguments = parser.parse_args()
    texts = read(arguments.corpus, Settings(text_field=arguments.text_field))
    with track("count words", len(texts)) as advance:
        counts = count_words(map(plain_text, texts), advance)
    count = write_words(arguments.output, counts, arguments.least)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {count:,} of {len(counts):,} words, {counts.total():,} in all; {size:,} bytes")


if __name__ == "__main__":
    main()
