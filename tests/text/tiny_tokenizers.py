"""Tiny tokenizers of the kinds that llama.cpp has, made from the tiny texts."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hypergen.text.gguf_tokenizer import SPACE, SPLITS
from hypergen.text.tokenizer import train_tokenizer
from tests.text import tiny

REGEX_OF = {name: regex for regex, name in SPLITS.items()}
SPECIAL = ("<unk>", "<s>", "</s>")


def byte_level(kind: str = "gpt-2") -> PreTrainedTokenizerFast:
    """Byte-level BPE with the split of llama.cpp's name `kind`."""
    tokenizer = train_tokenizer(tiny.TEXTS, tiny.NUM_TOKENS)
    if kind == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    elif kind != "gpt-2":
        split_by(tokenizer, REGEX_OF[kind])
    return tokenizer


def split_by(tokenizer: PreTrainedTokenizerFast, regex: str) -> PreTrainedTokenizerFast:
    steps = [
        pre_tokenizers.Split(Regex(regex), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def sentencepiece(kind: str = "llama", num_bytes: int = 256) -> PreTrainedTokenizerFast:
    """BPE with byte fallback, as SentencePiece makes it: a merge for each way to cut a piece in two pieces.

    llama: a space in front of a text; legacy: the same by a normalizer; gemma: no space in front.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", SPACE)
    trained.train_from_iterator(tiny.TEXTS, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    pieces = [*SPECIAL, *(f"<0x{number:02X}>" for number in range(num_bytes)), *(piece for piece, _ in learned)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    cuts = ((piece[:place], piece[place:]) for piece, _ in learned for place in range(1, len(piece)))
    merges = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.add_special_tokens(list(SPECIAL))
    replace = normalizers.Replace(" ", SPACE)
    if kind == "llama":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    elif kind == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    else:
        backend.normalizer, backend.pre_tokenizer = replace, pre_tokenizers.Split(" ", "merged_with_previous")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
