"""A folder that is swapped during a run is noticed. Alone: pytest tests/storage/test_held_folders.py"""

import pytest

from hypergen.errors import DiskError
from hypergen.storage.held_folders import check_held, hold


def test_the_same_folder_passes_and_so_does_any_that_is_not_held(tmp_path, monkeypatch):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with hold(tmp_path / "run"):
        for folder in (tmp_path / "run", tmp_path / "run" / "deep", tmp_path / "run" / "new", tmp_path):
            check_held(folder)


@pytest.mark.parametrize("how", ["a link", "another", "nothing"])
def test_another_folder_in_its_place_is_refused(how, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    with hold(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
        if how == "a link":
            (tmp_path / "run").symlink_to("other")
        elif how == "another":
            (tmp_path / "run").mkdir()
        for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
            with pytest.raises(DiskError, match=r"/run: is not the folder that this run has locked"):
                check_held(folder)
    check_held(tmp_path / "run")
