"""Completions from elsewhere, as `hypergen generate --output FILE.jsonl` writes them, for a row of their own.

Does not know: what a token means, how the completions came about.

Shape letters: N examples, P prompt, S completion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import InputError


def read_completions(source: str, prompts: Tensor, num_new: int, num_tokens: int) -> Tensor:
    """A .jsonl file with `prompt_tokens` and `completion_tokens` a line -> (N, num_new) ids, one a prompt (N, P).

    Longer completions are cut, so that all rows of a table have the same length.

    Raises:
        InputError: the file is not there, is empty or malformed, has fewer lines than prompts, answers another prompt,
            or a completion is too short or has ids outside 0 to num_tokens - 1.
    """
    try:
        lines = [line for line in Path(source).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--completions {source}: cannot be read ({error})") from error
    if not lines:
        raise InputError(f"--completions {source}: is empty")
    if len(lines) < len(prompts):
        raise InputError(f"--completions {source}: has {len(lines)} completions, {len(prompts)} prompts are compared")
    rows = zip(lines, prompts.tolist(), strict=False)
    found = [
        _read_line(line, prompt, num_new, f"--completions {source}, line {n}")
        for n, (line, prompt) in enumerate(rows, 1)
    ]
    tokens = torch.tensor(found)
    if int(tokens.min()) < 0 or int(tokens.max()) >= num_tokens:
        raise InputError(f"--completions {source}: has ids outside 0 to {num_tokens - 1}")
    return tokens


def _read_line(line: str, prompt: list[int], num_new: int, where: str) -> list[int]:
    try:
        record = json.loads(line)
        begin, tokens = record["prompt_tokens"], record["completion_tokens"]
        if not _are_ids(begin) or not _are_ids(tokens):
            raise TypeError
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{where}: must have prompt_tokens and completion_tokens, lists of ids") from error
    if begin != prompt:
        raise InputError(f"{where}: its prompt is not the one that is compared; generate with the same run and prompts")
    if len(tokens) < num_new:
        raise InputError(f"{where}: has {len(tokens)} tokens, {num_new} are compared; generate with --no-stop-at-end")
    return tokens[:num_new]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and abs(one) < 2**63 for one in value)
