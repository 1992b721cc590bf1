"""Only marked folders are swept. Alone: pytest tests/storage/test_temporary_folder.py"""

import os

import pytest

from hypergen.storage import temporary_folder
from hypergen.storage.temporary_folder import is_marked, leftovers_for, leftovers_in, make_marked, remove, remove_marked
from tests.conftest import tree
from tests.storage.faulty_disk import failing, write_two


def test_a_marked_folder_is_known_by_what_it_is_for(tmp_path):
    folder = make_marked(tmp_path, "a.txt")
    write_two(folder)
    assert is_marked(folder) and is_marked(folder, "a.txt") and not is_marked(folder, "b.txt")
    assert list(leftovers_for(tmp_path / "a.txt")) == [folder] and not list(leftovers_for(tmp_path / "b.txt"))
    remove_marked(folder)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["plain", "x" * 255, "ünïcode", os.fsdecode(b"\xff")], ids=range(4))
def test_any_name_can_be_marked(name, tmp_path):
    assert is_marked(make_marked(tmp_path, name), name)


def test_what_somebody_else_put_there_is_not_ours(tmp_path):
    for name in (".tmp-data", ".tmp-1", ".tmp-wrong"):
        (tmp_path / name).mkdir()
        write_two(tmp_path / name)
    (tmp_path / ".tmp-wrong" / ".process").write_text("my processes\n")
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-link").symlink_to(make_marked(tmp_path, "a"))
    found = list(leftovers_in(tmp_path))
    assert len(found) == 1 and not found[0].is_symlink()


def test_an_empty_one_of_a_process_killed_at_once_is_ours(tmp_path):
    (tmp_path / ".tmp-abc").mkdir()
    assert is_marked(tmp_path / ".tmp-abc") and not is_marked(tmp_path / ".tmp-abc", "a.txt")


def test_the_mark_goes_last(tmp_path, monkeypatch):
    folder = make_marked(tmp_path, "a.txt")
    write_two(folder)
    removed = []
    monkeypatch.setattr(temporary_folder, "remove", lambda path: (removed.append(path.name), remove(path)))
    remove_marked(folder)
    assert removed[-1] == ".process" and len(removed) == 3 and not folder.exists()


def test_one_that_cannot_be_marked_goes_again(tmp_path):
    with failing("mkdir", 1), pytest.raises(OSError):
        make_marked(tmp_path, "a")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(temporary_folder, "process_record", _fail)
        make_marked(tmp_path, "a")
    assert tree(tmp_path) == {}


def _fail():
    raise RuntimeError


def test_what_is_removed_may_be_a_file_a_folder_a_link_or_nothing(tmp_path):
    write_two(tmp_path)
    (tmp_path / "kept").mkdir()
    write_two(tmp_path / "kept")
    (tmp_path / "link").symlink_to("kept")
    for name in ("a.txt", "deep", "link", "nothing"):
        remove(tmp_path / name)
    assert tree(tmp_path).keys() == {"kept", "kept/a.txt", "kept/deep", "kept/deep/b.txt"}
