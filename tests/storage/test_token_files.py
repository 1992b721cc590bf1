"""Stored sequences and their ids are checked before use. Alone: pytest tests/storage/test_token_files.py"""

import pytest
import torch
from safetensors.torch import save_file

from hypergen.errors import InputError
from hypergen.storage.token_files import checked_ids, save_tokens, stored_loss_mask, stored_tokens

NAME = "tokens.safetensors"


def stored(folder, **tensors):
    save_file(tensors, folder / NAME)
    return folder


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_stored_sequences_come_back_as_int64(kind, tmp_path):
    tokens = torch.tensor([[0, 1, 2], [3, 4, 5]])
    found = stored_tokens(stored(tmp_path, tokens=tokens.to(kind)), NAME, 6)
    assert found.equal(tokens) and found.dtype == torch.int64


def test_a_base_has_none(tmp_path):
    with pytest.raises(InputError, match=r"not there; only a hyperfitted run has it$"):
        stored_tokens(tmp_path, NAME)


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / NAME).write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match=f"{NAME}: cannot be read") as error:
        stored_tokens(tmp_path, NAME)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"{NAME}: cannot be read"):
        stored_tokens(stored(tmp_path, others=torch.zeros(1, 1, dtype=torch.int64)), NAME)


def test_ids_of_another_model_are_refused_with_the_file(tmp_path):
    stored(tmp_path, tokens=torch.tensor([[0, 9]]))
    with pytest.raises(InputError, match=f"{NAME}: has id 9; the model has ids from 0 to 8$"):
        stored_tokens(tmp_path, NAME, 9)


BAD_IDS = {
    "negative": (torch.tensor([[1, -1]]), "has id -1; the model has ids from 0 to 9"),
    "too large": (torch.tensor([[1, 10]]), "has id 10; the model has ids from 0 to 9"),
    "float": (torch.tensor([[1.0]]), "whole numbers, found torch.float32 of shape (1, 1)"),
    "boolean": (torch.tensor([[True]]), "whole numbers, found torch.bool of shape (1, 1)"),
    "one row": (torch.tensor([1, 2]), "found torch.int64 of shape (2,)"),
    "list": ([[1, 2]], "found list"),
}


@pytest.mark.parametrize("ids, complaint", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_bad_ids(ids, complaint):
    with pytest.raises(InputError) as error:
        checked_ids("here", ids, 10)
    assert str(error.value).startswith("here: ") and complaint in str(error.value)


def test_the_ends_of_the_range_and_no_ids_at_all_are_good():
    assert checked_ids("here", torch.tensor([[0, 9]]), 10).tolist() == [[0, 9]]
    assert checked_ids("here", torch.zeros(2, 0, dtype=torch.int32), 10).shape == (2, 0)


def test_a_loss_mask_is_kept_beside_the_tokens_and_old_files_have_none(tmp_path):
    tokens = torch.arange(12).view(4, 3).T  # not contiguous
    loss_mask = tokens % 2 == 0
    save_tokens(tmp_path / NAME, tokens, loss_mask)
    assert stored_tokens(tmp_path, NAME).equal(tokens) and stored_loss_mask(tmp_path, NAME).equal(loss_mask)
    save_tokens(tmp_path / NAME, tokens)
    assert stored_tokens(tmp_path, NAME).equal(tokens) and stored_loss_mask(tmp_path, NAME) is None


BAD_MASKS = {
    "numbers": torch.ones(2, 3),
    "another shape": torch.ones(2, 2, dtype=torch.bool),
    "nothing counts": torch.tensor([[True] * 3, [False] * 3]),
}


@pytest.mark.parametrize("mask", BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_a_bad_mask_is_one_line(mask, tmp_path):
    save_file({"tokens": torch.ones(2, 3, dtype=torch.int64), "loss_mask": mask}, tmp_path / NAME)
    with pytest.raises(InputError, match=rf"{NAME}: its loss_mask must be truth values, some true for each") as error:
        stored_loss_mask(tmp_path, NAME)
    assert "\n" not in str(error.value)
