"""Read completions from elsewhere, as `hypergen generate --output FILE.jsonl` writes them, for a row of their own.

Does not know what a token means.

Shape letters: N examples, P prompt, S completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.storage.line_reader import check_length, read_lines
from hypergen.storage.strict_json import parse_object


def read_completions(
    source: str,
    prompts: Sequence[Tensor] | Tensor,
    num_new: int,
    num_tokens: int,
    end_tokens: Sequence[int] = (),
) -> Tensor:
    """Read a .jsonl file with `prompt_tokens` and `completion_tokens` a line -> (N, num_new) ids, one a prompt (P,).

    Longer completions are cut, so that all rows of a table have the same length; where they may end before, shorter
    ones are filled up with the first of `end_tokens`.

    Raises:
        InputError: the file is not there, is empty or malformed, has fewer lines than prompts, answers another prompt,
            or a completion is too short or has ids outside 0 to num_tokens - 1.
    """
    where = f"--completions {source}"
    found: list[list[int]] = []
    try:
        if Path(source).exists() and not Path(source).is_file():  # a pipe would be waited for
            raise InputError(f"{where}: cannot be read (not a regular file)")
        for number, _, line in islice(read_lines(Path(source)), len(prompts)):
            place = f"{where}, line {number}"
            ids = _read_line(line, prompts[len(found)].tolist(), 0 if end_tokens else num_new, place)[:num_new]
            found.append(ids + list(end_tokens[:1]) * (num_new - len(ids)))
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    if not found:
        raise InputError(f"{where}: is empty")
    if len(found) < len(prompts):
        raise InputError(f"{where}: has {len(found)} completions, {len(prompts)} prompts are compared")
    completions = torch.tensor(found)
    if int(completions.min()) < 0 or int(completions.max()) >= num_tokens:
        raise InputError(f"{where}: has ids outside 0 to {num_tokens - 1}")
    return completions


def _read_line(line: bytes, prompt: list[int], least: int, where: str) -> list[int]:
    """Read the completion of one line, and check that it continues this prompt with at least so many ids."""
    check_length(where, line)
    record = parse_object(where, line.strip())
    given, completion = record.get("prompt_tokens"), record.get("completion_tokens")
    if not _are_ids(given) or not _are_ids(completion):
        raise InputError(f"{where}: must have prompt_tokens and completion_tokens, lists of ids")
    if given != prompt:
        raise InputError(f"{where}: its prompt is not the one that is compared; generate with the same run and prompts")
    if len(completion) < least:
        compared = f"{least} are compared; generate with --no-stop-at-end"
        raise InputError(f"{where}: has {len(completion)} tokens, {compared}")
    return completion


def _are_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and abs(one) < 2**63 for one in value)
