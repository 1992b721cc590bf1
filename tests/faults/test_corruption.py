"""Row C: a checkpoint that has been changed is found, and the one before is taken.

Alone: pytest tests/faults/test_corruption.py
"""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from hypergen.errors import CheckpointError
from hypergen.runtime.signals import SignalWatch
from hypergen.storage import manifest as manifests
from hypergen.training.checkpoints import Checkpoints
from tests.faults.conftest import cases, some, spread

FILES = ("manifest.json", "state.json", "state.safetensors")


def newest(fits):
    """What a resume would take, without its options and its machine."""
    stored = json.loads(next((fits.folder / "run" / "checkpoints").glob("step-27/state.json")).read_text())
    folder = fits.folder / "run" / "checkpoints"
    facts = {"facts": stored["facts"], "machine": stored["machine"], "signals": SignalWatch()}
    return Checkpoints(folder=folder, resume=True, **facts).newest()


def check_found(fits, damaged_path, whole, capsys):
    """The checkpoint before is used, with one warning that names the file, and the run ends as it would have."""
    assert newest(fits).step == 27
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and f"skipping a damaged checkpoint: {damaged_path}" in told[0]
    assert fits.goes_on(whole).count("skipping a damaged checkpoint") == 1


@pytest.mark.parametrize("number", cases(50, 6))
def test_c1_one_flipped_bit(number, damaged, whole, draw, capsys):
    fits, folder, _ = damaged
    path = folder / FILES[number % 3]
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    if path.name == "manifest.json" and _says_the_same(path, folder):
        pytest.skip("the bit changed nothing that the manifest says")
    check_found(fits, folder, whole, capsys)


def _says_the_same(manifest, folder):
    """Blanks, or an unused key's name."""
    try:
        manifests.check_manifest(folder)
        return True
    except CheckpointError:
        return False


@pytest.mark.parametrize("number", cases(20, 3))
def test_c2_truncated(number, damaged, whole, draw, capsys):
    fits, folder, _ = damaged
    path = folder / FILES[number % 3]
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(0 if number <= 3 else draw.randrange(1, size - 1))
    check_found(fits, folder, whole, capsys)


def swap_file(name):
    def damage(newer, older):
        shutil.copyfile(older / name, newer / name)

    return damage


def swap_all(newer, older):
    for name in FILES:
        shutil.copyfile(older / name, newer / name)


MISSING = {
    **{f"no {name}": lambda newer, older, name=name: (newer / name).unlink() for name in FILES},
    **{f"another's {name}": swap_file(name) for name in FILES},
    "another's files": swap_all,
    "no file": lambda newer, older: [(newer / name).unlink() for name in FILES],
    "a folder in place of a file": lambda newer, older: [(newer / FILES[2]).unlink(), (newer / FILES[2]).mkdir()],
    "a link to nowhere": lambda newer, older: [(newer / FILES[1]).unlink(), (newer / FILES[1]).symlink_to("nowhere")],
}


@pytest.mark.parametrize("number", spread(10), ids=MISSING)
def test_c3_missing_or_another_s(number, damaged, whole, capsys):
    fits, newer, older = damaged
    list(MISSING.values())[number - 1](newer, older)
    check_found(fits, newer, whole, capsys)


def manifest(change):
    def damage(folder):
        path = folder / "manifest.json"
        path.write_text(change(json.loads(path.read_text())))

    return damage


def entry(name, **changes):
    return manifest(lambda held: json.dumps(held | {"files": held["files"] | {name: held["files"][name] | changes}}))


def restated(change):
    """`state.json` changed, and the manifest made to agree."""

    def damage(folder):
        numbers = json.loads((folder / "state.json").read_text())
        change(numbers)
        (folder / "state.json").write_text(json.dumps(numbers))
        agree(folder)

    return damage


def agree(folder):
    (folder / "manifest.json").unlink()
    files = manifests.build_manifest(folder)
    (folder / "manifest.json").write_text(json.dumps(files))


EDITS = {
    "another step": restated(lambda numbers: numbers.update(step=33)),
    "a step that is no number": restated(lambda numbers: numbers.update(step="30")),
    "no facts": restated(lambda numbers: numbers.pop("facts")),
    "another hash": entry("state.json", sha256="0" * 64),
    "a huge size": entry("state.json", bytes=10**4000),
    "a huge integer": manifest(lambda held: json.dumps(held).replace('"bytes": ', '"bytes": ' + "9" * 5000, 1)),
    "a newer version": manifest(lambda held: json.dumps(held | {"format": 2})),
    "not JSON": manifest(lambda held: json.dumps(held)[:-1]),
    "nothing listed": manifest(lambda held: json.dumps(held | {"files": {}})),
    "a list": manifest(lambda held: json.dumps([held])),
}


@pytest.mark.parametrize("number", spread(10), ids=EDITS)
def test_c4_edited(number, damaged, whole, capsys):
    fits, folder, _ = damaged
    list(EDITS.values())[number - 1](folder)
    check_found(fits, folder, whole, capsys)


def header(text):
    content = text.encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(16))


def retensored(change):
    def damage(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


OVERLAP = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
NAME = "weight.norm.weight"
FOREIGN = {
    "a header over 100 MB": lambda path: path.write_bytes(struct.pack("<Q", 2**30) + b"{" + bytes(64)),
    "overlapping offsets": header(OVERLAP),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04."),
    "NaN weights": retensored(lambda tensors: tensors[NAME].fill_(torch.nan)),
    "wrong shapes": retensored(lambda tensors: tensors.update({NAME: tensors[NAME][:-1].clone()})),
    "a missing key": retensored(lambda tensors: tensors.pop(NAME)),
    "an extra key": retensored(lambda tensors: tensors.update(extra=torch.ones(1))),
    "no optimizer state of a weight": retensored(lambda tensors: tensors.pop("optimizer.0.0.exp_avg")),
}


@pytest.mark.parametrize("kind", some(FOREIGN, lambda place: place in (0, 3, 4)))
def test_c5_foreign_tensors_under_a_manifest_that_agrees(kind, damaged, whole):
    """Those that are no state give way to the checkpoint before; a state of another model is refused with its names."""
    fits, folder, _ = damaged
    FOREIGN[kind](folder / "state.safetensors")
    agree(folder)
    if list(FOREIGN).index(kind) < 4:
        assert f"skipping a damaged checkpoint: {folder}" in fits.goes_on(whole)
        return
    outcome = fits(resume=True)
    assert outcome.code == 3 and "tensors do not fit this model, the first is" in outcome.told, outcome.told
    assert (folder / "state.safetensors").is_file()
