"""Write a tokenizer into a GGUF file as llama.cpp's converter does: pieces, their types, merges or scores, special ids.

llama.cpp has two kinds of BPE. The byte-level one (`gpt2`) is stored with its merges and the name of the rule that
splits a text beforehand; the SentencePiece-like one (`llama`) with scores, where the piece merged first scores highest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hypergen.errors import InputError
from hypergen.runtime.console import warn
from hypergen.text.tokenizer import prefix_ids

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's types of a piece
SPACE = "\u2581"  # stands for a space in SentencePiece
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}  # Gemma's
DIGITS = {"type": "Digits", "individual_digits": True}
# Regular expressions that split a text before byte-level BPE, those of Llama 3 and Qwen 2 -> llama.cpp's name for each.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {rf"{WORDS}\p{{N}}{{1,3}}{SPACES}": "llama-bpe", rf"{WORDS}\p{{N}}{SPACES}": "qwen2"}
END_NAMES = ("eos", "eot", "eom")  # of a text, of a turn, of a message: llama.cpp stops at each


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, num_tokens: int, end_tokens: Sequence[int]) -> None:
    """Add the keys of a tokenizer.

    Args:
        writer: a `GGUFWriter`.
        tokenizer: one that llama.cpp has an equal of.
        num_tokens: rows of the embedding; ids without a piece are filled up, pieces without a row dropped.
        end_tokens: ids that end a completion, besides the tokenizer's own.

    Raises:
        InputError: it is none that llama.cpp has, or puts other tokens around a text than a start and an end token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = {} if backend is None else json.loads(backend.to_str())
    model = content.get("model", {})
    kind = model.get("type", type(tokenizer).__name__)
    if kind != "BPE":
        raise _refusal("model", kind, "BPE, byte-level or with byte fallback")
    pieces = {index: piece for piece, index in model["vocab"].items()}
    pieces |= {token["id"]: token["content"] for token in content["added_tokens"]}
    if model["byte_fallback"]:
        _add_sentencepiece(writer, content, pieces, num_tokens)
    else:
        _add_byte_level(writer, content, pieces, num_tokens)
    _add_special_ids(writer, tokenizer, num_tokens, end_tokens)
    if template := tokenizer.chat_template:
        named = (
            [{"name": name, "template": one} for name, one in template.items()] if isinstance(template, dict) else []
        )
        writer.add_chat_template(named or template)


def _refusal(part: str, value: object, allowed: str) -> InputError:
    return InputError(f"--format gguf: the tokenizer's {part} is {value}; it must be {allowed}")


# Byte-level BPE.


def _add_byte_level(writer: Any, content: Mapping[str, Any], pieces: Mapping[int, str], num_tokens: int) -> None:
    if (normalizer := _type(content["normalizer"])) not in ("None", "NFC"):
        raise _refusal("normalizer", normalizer, "NFC or none")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content["pre_tokenizer"]))
    types = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in content["added_tokens"]}
    _add_pieces(writer, pieces, types, num_tokens)
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])


def _split_name(pre_tokenizer: Mapping[str, Any] | None) -> str:
    """Find llama.cpp's name of the rule that splits a text before BPE.

    Raises:
        InputError: it has none.
    """
    *splits, last = _steps(pre_tokenizer, "pretokenizers") or [{}]
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        if last["use_regex"] and splits in ([], [DIGITS]):
            return "smollm" if splits else "gpt-2"
        if not last["use_regex"] and len(splits) == 1 and _is_isolated(splits[0]):
            name = SPLITS.get(splits[0]["pattern"].get("Regex"))
            if name is not None:
                return name
    shown = " + ".join(map(_type, [*splits, last])) if last else "None"
    raise _refusal("pre-tokenizer", f"{shown}, of another rule", "that of GPT-2, SmolLM, Llama 3 or Qwen 2")


def _is_isolated(split: Mapping[str, Any]) -> bool:
    return (split["type"], split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)


# SentencePiece-like BPE.


def _add_sentencepiece(writer: Any, content: Mapping[str, Any], pieces: Mapping[int, str], num_tokens: int) -> None:
    adds_space = _adds_space(content)
    bytes_found = {index for index, piece in pieces.items() if BYTE_PIECE.fullmatch(piece) and index < num_tokens}
    if len(bytes_found) != 256:
        raise _refusal("byte fallback", f"of {len(bytes_found)} pieces", "of 256: <0x00> to <0xFF>")
    types = dict.fromkeys(bytes_found, BYTE)
    types |= {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in content["added_tokens"]}
    types |= {index: UNKNOWN for index, piece in pieces.items() if piece == content["model"]["unk_token"]}
    # llama.cpp looks for user-defined pieces in the text itself, where a space is a space.
    spelled = {
        index: piece.replace(SPACE, " ") if types.get(index) == USER_DEFINED else piece
        for index, piece in pieces.items()
    }
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    _add_pieces(writer, spelled, types, num_tokens)
    writer.add_token_scores(_scores(content["model"]["merges"], pieces, num_tokens))
    writer.add_add_space_prefix(adds_space)


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Tell whether a text gets a space in front; llama.cpp adds it, unlike Metaspace, also before another space.

    Raises:
        InputError: normalizer and pre-tokenizer are not those of SentencePiece.
    """
    normalizers = _steps(content["normalizer"], "normalizers")
    pre_tokenizer = content["pre_tokenizer"] or {"type": "None"}
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE} in normalizers
    prepends = {"type": "Prepend", "prepend": SPACE} in normalizers
    if len(normalizers) != replaces + prepends:
        raise _refusal("normalizer", " + ".join(map(_type, normalizers)), f"one of spaces to {SPACE}, or none")
    if pre_tokenizer["type"] == "Metaspace" and pre_tokenizer["replacement"] == SPACE and not normalizers:
        return bool(pre_tokenizer["prepend_scheme"] != "never")
    if replaces and pre_tokenizer in ({"type": "None"}, NO_SPLIT):
        return prepends
    raise _refusal(
        "pre-tokenizer", pre_tokenizer["type"], f"Metaspace, or none after a normalizer of spaces to {SPACE}"
    )


def _scores(merges: Sequence[Sequence[str]], pieces: Mapping[int, str], num_tokens: int) -> list[float]:
    """Compute a score from the place of the first merge that makes a piece; lowest where none does."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(pieces.get(index, ""), len(merges))) for index in range(num_tokens)]


# Both kinds.


def _steps(part: Mapping[str, Any] | None, inside: str) -> list[Any]:
    """List the steps of a normalizer or pre-tokenizer, which may be a sequence or nothing."""
    if part is None:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]


def _type(part: Mapping[str, Any] | None) -> str:
    return "None" if part is None else str(part["type"])


def _add_pieces(writer: Any, pieces: Mapping[int, str], types: Mapping[int, int], num_tokens: int) -> None:
    writer.add_token_list([pieces.get(index, f"[PAD{index}]") for index in range(num_tokens)])
    writer.add_token_types([types.get(index, NORMAL) if index in pieces else UNUSED for index in range(num_tokens)])


def _add_special_ids(
    writer: Any, tokenizer: PreTrainedTokenizerBase, num_tokens: int, end_tokens: Sequence[int]
) -> None:
    """Add the ids of special tokens, and whether a start and an end token are put around a text.

    Raises:
        InputError: others are.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    others = {"bos": bos, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    ends = dict.fromkeys(one for one in (eos, *end_tokens) if one is not None)
    if left := list(ends)[len(END_NAMES) :]:
        warn(f"--format gguf: llama.cpp has a place for {len(END_NAMES)} end tokens; {left} do not end its completions")
    ids = others | dict(zip(END_NAMES, ends, strict=False))
    for name, index in ids.items():
        if index is not None and index < num_tokens:
            getattr(writer, f"add_{name}_token_id")(index)
    prefix, plain = prefix_ids(tokenizer), tokenizer("a", add_special_tokens=False)["input_ids"]
    suffix = tokenizer("a")["input_ids"][len(prefix) + len(plain) :]
    if prefix not in ([], [bos]) or suffix not in ([], [eos]):
        raise _refusal("frame around a text", f"{prefix} and {suffix}", "at most a start and an end token")
    writer.add_add_bos_token(bool(prefix))
    writer.add_add_eos_token(bool(suffix))
