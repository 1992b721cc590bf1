"""Train a byte-level BPE, and load and apply any tokenizer that `AutoTokenizer` can read.

A trained tokenizer has one special token, `<|endoftext|>`, with id 0: it separates texts and serves as start, end and
padding token. Any string can be encoded, because every byte has a piece of its own. Nothing is added to a text unasked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.runtime.console import first_line
from hypergen.text import gguf
from hypergen.text.checkpoint import quiet
from hypergen.text.tokenizer_safety import check_normalizer, no_panic

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCABULARY_SIZE = 4096
SMALLEST_VOCABULARY_SIZE = 257  # 256 bytes and the special token
TEXTS_PER_BATCH = 64
LONGEST_WORD = 1000  # characters, of a text that a BPE is trained on
LONG_RUN = re.compile(rf"\S{{{LONGEST_WORD}}}(?=\S)|\s{{{LONGEST_WORD}}}(?=\s)")
SENTENCEPIECE, PROTOBUF, TIKTOKEN = "sentencepiece>=0.2", "protobuf>=4.25", "tiktoken>=0.7"
MODEL_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
PROTOBUF_SIGN = b"\n"  # how a sentencepiece model begins; the other kind is lines of text


def train_tokenizer(texts: Iterable[str], vocabulary_size: int | None = None) -> PreTrainedTokenizerFast:
    """Train a BPE with exactly `vocabulary_size` pieces, special token included; fewer where texts are few.

    Words longer than LONGEST_WORD are cut for this: the time of the training grows with the square of their length.

    Raises:
        InputError: the vocabulary cannot hold the 256 bytes and the special token.
    """
    size = DEFAULT_VOCABULARY_SIZE if vocabulary_size is None else vocabulary_size
    if size < SMALLEST_VOCABULARY_SIZE:
        raise InputError(f"--vocabulary-size {size}: must be {SMALLEST_VOCABULARY_SIZE} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(map(_cut, texts)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def _cut(text: str) -> Iterator[str]:
    """Yield a text in parts in which no run without white space, or of white space, is longer than LONGEST_WORD."""
    start = 0
    for found in LONG_RUN.finditer(text):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def load_tokenizer(name: str | Path, local_files_only: bool = True) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, GGUF file or hub id; code that comes with it is never run.

    Raises:
        InputError: there is none, it cannot be read, or it has no pieces.
    """
    try:
        with quiet(), no_panic(str(name)):
            check_normalizer(Path(name) / "tokenizer.json")
            tokenizer = gguf.load_tokenizer(str(name)) if gguf.is_gguf(name) else _auto(str(name), local_files_only)
            _try_out(tokenizer)
    except InputError:
        raise
    except Exception as error:  # whatever hub, JSON and tokenizers raise
        reason = _missing_libraries(str(name)) or f"cannot be loaded ({first_line(error)})"
        raise InputError(f"{name}: its tokenizer {reason}") from error
    if not len(tokenizer):
        raise InputError(f"{name}: its tokenizer has no pieces")
    return tokenizer


def _missing_libraries(name: str) -> str | None:
    """Say which libraries a tokenizer needs that is in none of the formats of `tokenizers`; None where none is missing.

    transformers names the library that it tried last, which is not the one that the file is of.
    """
    if _file(name, "tokenizer.json") is not None:
        return None
    path = next((found for file in MODEL_FILES if (found := _file(name, file)) is not None), None)
    if path is None:
        return None
    needed = {"tiktoken": TIKTOKEN}
    with path.open("rb") as file:
        if file.read(1) == PROTOBUF_SIGN:
            needed = {"sentencepiece": SENTENCEPIECE, "google.protobuf": PROTOBUF}
    missing = [requirement for module, requirement in needed.items() if not dependencies.is_installed(module)]
    kind = "a sentencepiece model" if len(needed) == 2 else "a tiktoken file"
    names = " and ".join(re.split(r"\W", one)[0] for one in missing)
    cure = " ".join(f"'{one}'" for one in missing)
    return f"is {kind} ({path.name}), which needs {names} (pip install {cure})" if missing else None


def _file(name: str, file: str) -> Path | None:
    """Find a file of a folder, or of a hub id in the local cache."""
    path = Path(name) / file
    if not Path(name).is_dir():
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # no hub id
            return None
        path = Path(found) if isinstance(found, str) else path
    return path if path.is_file() else None


def _auto(name: str, local_files_only: bool) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=local_files_only)


def _try_out(tokenizer: PreTrainedTokenizerBase) -> None:
    """Use a tokenizer once: broken ones raise an error only when used."""
    largest_id(tokenizer)
    prefix_ids(tokenizer)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], special: bool) -> Iterator[list[int]]:
    """Yield the ids of each text, in order; texts are tokenized in parallel, a batch at a time.

    Args:
        tokenizer: whose ids.
        texts: read when they are needed.
        special: add the special tokens that this tokenizer itself puts around a text (such as a start token); a start
            token that a text has already, such as one that a chat template wrote, is not put there twice.
    """
    remaining, prefix = iter(texts), prefix_ids(tokenizer) if special else []
    while batch := list(islice(remaining, TEXTS_PER_BATCH)):
        with no_panic("a text"):
            found = tokenizer(batch, add_special_tokens=special, return_attention_mask=False, verbose=False)
        found = found["input_ids"]
        yield from (ids[len(prefix) * _begins_twice(ids, prefix) :] for ids in found) if prefix else found


def _begins_twice(ids: list[int], prefix: list[int]) -> bool:
    return ids[: 2 * len(prefix)] == [*prefix, *prefix]


def begin_once(ids: list[int], prefix: list[int]) -> list[int]:
    """Put the start tokens in front of ids, unless they are there already."""
    return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]


def decode_texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Decode ids into texts without special tokens; spaces stay as they were written."""
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the ids that this tokenizer itself puts in front of any text: a start token (BOS), or nothing."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    starts = (first for first in range(len(whole)) if whole[first : first + len(plain)] == plain)
    return whole[: next(starts, 0)]


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Find the largest id of the vocabulary; tokens added later may lie above it and be unknown to the model."""
    added = tokenizer.get_added_vocab()
    return max((index for piece, index in tokenizer.get_vocab().items() if piece not in added), default=0)
