"""Files of a folder, and what is passed over. Alone: pytest tests/data/test_folders.py"""

import os

import pytest

from hypergen.data.folders import find_files
from hypergen.errors import InputError


def find(folder, names, is_unit=lambda path: False):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    found = find_files(folder, lambda path: path.suffix == ".txt", is_unit, ".txt")
    return [str(path.relative_to(folder)) for path in found]


def test_files_come_in_the_order_of_their_names(tmp_path, capsys):
    names = ["b.txt", "a.txt", "deep/er/c.txt", ".hidden.txt", ".git/d.txt", "__MACOSX/e.txt"]
    assert find(tmp_path, names) == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_counted_in_one_line(tmp_path, capsys):
    assert find(tmp_path, ["a.txt", "z.pdf", "m.doc"]) == ["a.txt"]
    said = f"hypergen: {tmp_path}: 2 files passed over, the first is {tmp_path / 'm.doc'}; 1 are read\n"
    assert capsys.readouterr().err == said


def test_a_folder_of_other_things_names_the_first(tmp_path):
    with pytest.raises(InputError, match=r"the first of 2 others is \S+a\.pdf\); allowed are \.txt$"):
        find(tmp_path, ["b.doc", "a.pdf"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"without a file that can be read \(it is empty\)"):
        find(tmp_path / "empty", [])


def test_some_folders_are_read_as_one(tmp_path):
    assert find(tmp_path, ["a.txt", "unit/x.arrow"], lambda path: path.name == "unit") == ["a.txt", "unit"]
    assert find(tmp_path, [], lambda path: path == tmp_path) == ["."]


def test_a_circle_of_links_ends(tmp_path):
    os.symlink(tmp_path, tmp_path / "again")
    assert find(tmp_path, ["a.txt"]) == ["a.txt"]
