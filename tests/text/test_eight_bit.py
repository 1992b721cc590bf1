"""Weights in 8 bits: what is lost, what comes back, what a damaged file says.

Alone: pytest tests/text/test_eight_bit.py
"""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import hypergen
from hypergen.errors import InputError
from hypergen.text import eight_bit
from tests.text import tiny

FITTING = {"sequence_length": 16, "prompt_length": 4}  # the context of tiny models


@pytest.fixture
def folders(tmp_path):
    """A tiny model as it is, and the same folder with its weights in 8 bits."""
    whole, small = tmp_path / "whole", tmp_path / "small"
    whole.mkdir()
    tiny.modality("llama", tie_word_embeddings=True).save(whole)
    shutil.copytree(whole, small)
    (small / "model.safetensors").unlink()
    hypergen.load(whole, device="cpu", **FITTING).export(format="safetensors", output=str(small / eight_bit.WEIGHTS))
    return whole, small


def causal(folder):
    return hypergen.load(folder, device="cpu", **FITTING).modality.model.causal


def test_a_weight_is_off_by_half_a_step_of_its_row_at_most(folders):
    before, after = (dict(causal(folder).named_parameters()) for folder in folders)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        off = (weight - after[name]).abs()
        if weight.ndim < 2:
            assert not off.any()
        else:
            assert (off <= weight.abs().amax(-1, keepdim=True) / 127 * 0.501).all(), name


def test_tied_weights_are_stored_once_and_stay_tied(folders):
    model = causal(folders[1])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    stored = load_file(folders[1] / eight_bit.WEIGHTS)
    assert not any("lm_head" in name for name in stored)
    assert {weight.dtype for name, weight in stored.items() if name + eight_bit.SCALE in stored} == {torch.int8}


def test_what_was_read_is_written_again_bit_for_bit(folders, tmp_path):
    hypergen.load(folders[1], device="cpu", **FITTING).export(
        format="safetensors", output=str(tmp_path / "again.safetensors")
    )
    one, other = load_file(folders[1] / eight_bit.WEIGHTS), load_file(tmp_path / "again.safetensors")
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert weight.equal(other[name]) or name.endswith(eight_bit.SCALE)


def test_a_run_of_such_a_base_is_an_ordinary_folder(folders, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join("the cat sat on the mat and looked at the dog again " * 8 for _ in range(4)))
    run = hypergen.fit(
        model=folders[1], data=texts, output=tmp_path / "run", num_samples=2, epochs=1, held_out_samples=1,
        device="cpu", learning_rate=1e-3, **FITTING,
    )  # fmt: skip
    assert (run.folder / "model.safetensors").is_file()
    assert not eight_bit.is_eight_bit(run.folder)


def test_whole_weights_beside_them_go_first(folders):
    whole, small = folders
    shutil.copy(small / eight_bit.WEIGHTS, whole)
    assert not eight_bit.is_eight_bit(whole)


@pytest.mark.parametrize("fault", ["truncated", "without scales", "a weight less"])
def test_a_damaged_file_is_one_line(folders, fault):
    file = folders[1] / eight_bit.WEIGHTS
    stored = load_file(file)
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif fault == "without scales":
        save_file({name: weight for name, weight in stored.items() if not name.endswith(eight_bit.SCALE)}, file)
    else:
        name = next(name for name in stored if name + eight_bit.SCALE in stored)
        save_file({one: stored[one] for one in stored if not one.startswith(name)}, file)
    says = {"truncated": "cannot be read", "without scales": "has no scales of its rows", "a weight less": "missing"}
    with pytest.raises(InputError, match=says[fault]) as found:
        causal(folders[1])
    assert "\n" not in str(found.value)


def test_offload_needs_whole_weights(folders):
    with pytest.raises(InputError, match=re.escape("is stored in 8 bits")):
        hypergen.load(folders[1], device="cpu", offload=True, **FITTING)
