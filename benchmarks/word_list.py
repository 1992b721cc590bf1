"""Write the word list of a text base from its corpus: the words that stand in it at least twice.

    python benchmarks/word_list.py fiction/train.jsonl --base bases/mine
    python benchmarks/word_list.py fiction/train.jsonl --output words.txt.gz

With --base the list is written into its folder and named there, in `hypergen.json` under `words` and in the manifest;
`evaluate` then has the share of known words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hypergen.runtime.progress import track
from hypergen.text.config import Settings
from hypergen.text.conversations import plain_text
from hypergen.text.known_words import count_words
from hypergen.text.sources import read
from hypergen.text.word_list import FILE, LEAST_COUNT, add_words, write_words


def main() -> None:
    """Count, write, and say how many words there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="any source of texts that --data takes")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--base", type=Path, help="the folder of the base that was trained on the corpus")
    target.add_argument("--output", type=Path, help="the .gz file")
    parser.add_argument("--text-field", default=Settings.text_field)
    parser.add_argument("--least", type=int, default=LEAST_COUNT, help="how often a word must be there")
    arguments = parser.parse_args()
    texts = read(arguments.corpus, Settings(text_field=arguments.text_field))
    with track("count words", len(texts)) as advance:
        counts = count_words(map(plain_text, texts), advance)
    if arguments.base is None:
        file, count = arguments.output, write_words(arguments.output, counts, arguments.least)
    else:
        origin = f"seen at least {arguments.least} times in {Path(arguments.corpus).name}"
        file, count = arguments.base / FILE, add_words(arguments.base, counts, origin, arguments.least)
    size = file.stat().st_size
    print(f"{file}: {count:,} of {len(counts):,} words, {counts.total():,} in all; {size:,} bytes")


if __name__ == "__main__":
    main()
