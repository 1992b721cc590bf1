"""What is written in place is a regular file of ours. Alone: pytest tests/storage/test_own_file.py"""

import os

import pytest

from hypergen.errors import InputError
from hypergen.storage.own_file import is_record, open_own, process_record, read_record, write_all


def test_a_file_is_made_or_appended_to(tmp_path):
    for content in (b"one ", b"two"):
        with open_own(tmp_path / "a") as file:
            write_all(file, content)
    assert (tmp_path / "a").read_bytes() == b"one two"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    for target in ("other", "nowhere"):
        (tmp_path / "a").symlink_to(target)
        with pytest.raises(InputError, match=r"/a: is a symbolic link; remove it"):
            open_own(tmp_path / "a")
        (tmp_path / "a").unlink()
    os.link(tmp_path / "other", tmp_path / "a")
    with pytest.raises(InputError, match=r"/a: has another name, too \(a hard link\); remove it"):
        open_own(tmp_path / "a")
    assert (tmp_path / "other").read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(InputError, match="is not a regular file"):
        open_own(tmp_path / "a")


def test_a_write_that_is_taken_in_parts_is_finished():
    class Slow:
        taken = b""

        def write(self, content):
            self.taken += bytes(content[:3])
            return min(3, len(content))

    slow = Slow()
    write_all(slow, b"a long line\n")
    assert slow.taken == b"a long line\n"


def test_a_record_is_told_from_other_content(tmp_path):
    record = process_record().encode()
    assert all(is_record(record[:end]) for end in range(len(record) + 1))
    assert not any(map(is_record, (b"x", b"process_", b"procedure", record + b"x" * 5000)))
    (tmp_path / "a").write_bytes(record)
    (tmp_path / "b").symlink_to("a")
    assert read_record(tmp_path / "a") == record
    assert read_record(tmp_path / "b") is None and read_record(tmp_path / "c") is None
