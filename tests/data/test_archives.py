"""Zip archives that nobody vouches for. Alone: pytest tests/data/test_archives.py"""

import random
import stat
import zipfile

import pytest

from hypergen.data import archives
from hypergen.data.archives import ZipMembers
from hypergen.errors import InputError


def zipped(folder, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "a.zip", "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "a.zip"


def opened(path, max_bytes=100):
    return ZipMembers(path, suffixes=(".a", ".b"), item="letter", max_bytes=max_bytes)


def test_wanted_members_come_in_the_order_of_their_names(tmp_path):
    others = {"c.txt": b"x", ".hidden.a": b"x", "__MACOSX/1.a": b"x", "folder.a/": b"", "a": b"x"}
    members = opened(zipped(tmp_path, {"2.B": b"two", "1.a": b"one", "deep/0.a": b"zero"} | others))
    assert [members.read(row) for row in range(len(members))] == [b"one", b"two", b"zero"]
    assert members.where(2) == f"{tmp_path / 'a.zip'}, member 'deep/0.a'"


@pytest.mark.parametrize("name", ["../e.a", "/e.a", "a/../../e.a", "C:/e.a", "..\\e.a", "\\e.a", "a/..", "../e.txt"])
def test_a_path_out_of_the_archive_refuses_all_of_it(name, tmp_path):
    path = zipped(tmp_path, {"good.a": b"good", name: b"evil"})
    with pytest.raises(InputError, match=r"(an absolute path|'\.\.' in a path) is not allowed$"):
        opened(path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.a")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InputError, match=r"member 'link\.a': a symbolic link is not allowed$"):
        opened(zipped(tmp_path, {link: "/etc/passwd"}))


def test_an_encrypted_member_is_refused(tmp_path):
    path = zipped(tmp_path, {"1.a": b"one"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encryption is not allowed"):
        opened(path)


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1000)
    members = {f"{number}.txt": bytes(10**5) for number in range(3)}
    with pytest.raises(InputError, match="would unpack to 300,000 bytes, more than 100 times its size"):
        opened(zipped(tmp_path, members, zipfile.ZIP_DEFLATED))
    noise = random.Random(0).randbytes(2048)  # its size hides the ratio of the other member
    members = {"0.txt": bytes(10**5), "noise.b": noise}
    with pytest.raises(InputError, match="a member of more than 100 times its compressed size is not allowed"):
        opened(zipped(tmp_path, members, zipfile.ZIP_DEFLATED), max_bytes=9999)


def test_a_wanted_member_may_be_too_large_and_another_one_not(tmp_path):
    with pytest.raises(InputError, match=r"a letter of 101 bytes \(most: 100\) is not allowed"):
        opened(zipped(tmp_path, {"1.a": bytes(101)}))
    assert len(opened(zipped(tmp_path, {"1.a": bytes(100), "2.txt": bytes(101)}))) == 1


def test_no_zip_and_none_of_the_wanted(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(InputError, match=r"a\.zip': cannot be read \(File is not a zip file\)$"):
        opened(tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"no letter in it; allowed are \.a, \.b$"):
        opened(zipped(tmp_path, {"1.txt": b"x"}))


def test_a_damaged_or_empty_member_is_found_when_it_is_read(tmp_path):
    path = zipped(tmp_path, {"1.a": b"content", "2.a": b""})
    path.write_bytes(path.read_bytes().replace(b"content", b"damaged"))
    members = opened(path)
    with pytest.raises(InputError, match=r"a\.zip, member '1\.a': cannot be read \(Bad CRC-32"):
        members.read(0)
    with pytest.raises(InputError, match=r"a\.zip, member '2\.a': the file is empty$"):
        members.read(1)
