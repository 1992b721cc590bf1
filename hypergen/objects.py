"""Take Python objects where the command line has names: a model, lists, tables, tensors of ids.

An object is replaced by a short text that describes it in records, so that nothing behind the options changes; it is
looked up again where a source would be read or a model loaded.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from hypergen import registry
from hypergen.config import flag
from hypergen.data.lazy import look_up
from hypergen.errors import InputError
from hypergen.modality import Adapter, Encoded, Item, Modality
from hypergen.storage.token_files import checked_ids

SOURCES = ("data", "prompts", "held_out")  # options that name items
KINDS = "a source's name, a list, a datasets.Dataset, a pandas DataFrame or an (N, T) tensor of ids"


@dataclass(frozen=True)
class Objects:
    """Hold the objects that stand behind the options of one call."""

    model: object = None
    tokenizer: object = None
    sources: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Rows by the name of the option."""

    def load(self, adapter: Adapter, source: str, settings: Any, *, allow_pickle_weights: bool) -> Modality:
        """Wrap the given model, or load the source where none was given."""
        if self.model is None:
            return adapter.load(source=source, settings=settings, allow_pickle_weights=allow_pickle_weights)
        return adapter.wrap(model=self.model, tokenizer=self.tokenizer, settings=settings)

    def read(self, adapter: Adapter, option: str, source: str, settings: Any, skip_bad: int) -> Sequence[Item]:
        """Make items of the given rows, or read the source where none were given; ids stay what they are."""
        rows = self.sources.get(option)
        if rows is None:
            return adapter.read(source=source, settings=settings, skip_bad=skip_bad)
        if are_ids(rows):
            return rows
        if not len(rows):
            raise InputError(f"{flag(option)}: has no items")
        return adapter.read_rows(rows=rows, source=source, settings=settings, skip_bad=skip_bad)


def split_objects(options: Mapping[str, Any], tokenizer: object = None) -> tuple[dict[str, Any], Objects]:
    """Split keywords into options, where texts describe the objects, and the objects.

    A run stands for its folder, and a model tells its modality unless the user does.

    Args:
        options: what Python's user gave.
        tokenizer: of a model that is given as an object.

    Raises:
        InputError: an object is of a kind that nothing can be read from.
    """
    told, model = dict(options), _folder_of(options.get("model"))
    if model is not None:
        told["model"] = model
    if model is None or isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise InputError("tokenizer: goes with a model that is given as an object; a name brings its own")
        model = None
    else:
        told["model"] = getattr(model, "name_or_path", "") or f"a {type(model).__name__} in memory"
        told["modality"] = told.get("modality") or _modality_of(model)
    sources = {}
    for option in SOURCES:
        if not isinstance(value := told.get(option), str | os.PathLike | None):
            sources[option] = rows_of(option, value)
            told[option] = describe(value)
    return told, Objects(model, tokenizer, sources)


def _folder_of(model: object) -> object:
    """Name the folder of a run; anything else stays."""
    if not isinstance(folder := getattr(model, "folder", None), Path):
        return model
    if "interpolated" in getattr(model, "record", {}):
        raise InputError(f"--model: a run of interpolated weights is in no folder ({folder} has others)")
    return str(folder)


def _modality_of(model: object) -> str:
    """Tell the modality of a model by its configuration.

    Raises:
        InputError: it has none.
    """
    config: dict[str, Any] = getattr(getattr(model, "config", None), "to_dict", dict)()
    if (found := registry.recognized(config) if config else None) is None:
        kind = type(model).__name__
        raise InputError(f"--model: is of type {kind}; a name, a folder, a Run or a transformers model is needed")
    return found


# Items.


@final
class TableRows(Sequence[dict[str, Any]]):
    """Hold the rows of a `datasets.Dataset`, each read when it is asked for."""

    def __init__(self, table: Any):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return look_up(self, index, lambda row: self._table[row])


def rows_of(option: str, value: object) -> Sequence[object]:
    """Make rows of an object: what a list holds, a table's rows as mappings, a tensor's rows (T,).

    Raises:
        InputError: it is of another kind, or its tensor is not (N, T) of whole numbers.
    """
    if isinstance(value, Tensor):
        return list(checked_ids(flag(option), value.cpu(), torch.iinfo(torch.int64).max))
    if is_table(value):
        return _rows_of_table(option, value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return value
    raise InputError(f"{flag(option)}: is of type {type(value).__name__}; allowed are {KINDS}")


def _rows_of_table(option: str, table: Any) -> Sequence[dict[str, Any]]:
    if isinstance(table, Mapping):
        raise InputError(f"{flag(option)}: has several splits; name one, as in ['{next(iter(table), 'train')}']")
    return list(table.to_dict("records")) if hasattr(table, "iloc") else TableRows(table)


def is_table(value: object) -> bool:
    """Tell a pandas DataFrame or a `datasets.Dataset` by what they have, so that neither library is imported."""
    is_dataset = hasattr(value, "column_names") and hasattr(value, "select_columns") and hasattr(value, "__len__")
    return is_dataset or (hasattr(value, "iloc") and hasattr(value, "columns"))


def describe(value: Any) -> str:
    """Describe an object in a record: `a list of 48`."""
    if isinstance(value, Tensor):
        return f"a tensor of {' x '.join(map(str, value.shape))} ids"
    return f"a {type(value).__name__} of {len(value)}"


def are_ids(items: Sequence[object] | None) -> bool:
    """Tell rows of ids from items that are still to be encoded."""
    return items is not None and len(items) > 0 and isinstance(items[0], Tensor)


def chosen_ids(items: Sequence[Any], modality: Modality, count: int, seed: int) -> Encoded:
    """Choose `count` rows of ids by `seed`: -> tokens (N, T), as they were given.

    Raises:
        InputError: there are fewer, or the model does not have these ids or this length.
    """
    if count > len(items):
        raise InputError(f"--num-samples {count}: there are only {len(items)} sequences")
    rows = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count]
    return Encoded(_fitting(torch.stack([items[row] for row in rows.tolist()]), modality))


def _fitting(ids: Tensor, modality: Modality) -> Tensor:
    """Return ids (N, T) once they are known to be of the model, and to fit into its context."""
    tokens, context = checked_ids("ids", ids, modality.model.num_tokens), modality.model.context_length
    if tokens.shape[1] > context:
        raise InputError(f"ids: {tokens.shape[1]} a row; the model's context is {context} tokens")
    return tokens
