"""Documents of a .txt file by byte range, and the end of a long one. Alone: pytest tests/text/test_documents.py"""

import random
import re

import pytest

from hypergen.errors import InputError
from hypergen.text import documents
from hypergen.text.documents import cut_end, index_documents
from tests.data.plain import content_of, counted


def read(folder, content):
    (folder / "a.txt").write_bytes(content)
    return list(index_documents(content_of(folder / "a.txt")))


def expected(content):
    """What the reader of the whole file gave."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    found = [one.strip("\n") for one in re.split(r"^<\|endoftext\|>$", text, flags=re.MULTILINE)]
    return [one for one in found if one.strip()]


@pytest.fixture(params=[2**20, 1, 3, 14, 40])
def chunk(request, monkeypatch):
    monkeypatch.setattr(documents, "CHUNK", request.param)


def test_documents_are_those_of_a_whole_file(chunk, tmp_path):
    generator = random.Random(0)
    pieces = [
        "<|endoftext|>",
        "\n<|endoftext|>\n",
        "\r",
        "\r\n",
        "\n",
        "a",
        "é",
        "\N{GRINNING FACE}",
        " ",
        "\u3000",
        "<|",
    ]
    for case in range(150):
        content = "".join(generator.choices(pieces, k=generator.randrange(1, 25))).encode()
        content = b"\xef\xbb\xbf" * (case % 2) + content
        assert read(tmp_path, content) == expected(content), content


def test_a_document_is_read_alone(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(["one " * 1000, "two", "three " * 1000]))
    found = index_documents(content_of(tmp_path / "a.txt"))
    ranges = counted(monkeypatch)
    assert found[1] == "two" and ranges == [5]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"abc\0", "has a NUL byte at byte 3 of the file"),
        (b"\xef\xbb\xbfab\xe2\x82", "not UTF-8 at byte 5 of the file"),
    ],
)
def test_a_bad_byte_is_named_with_its_place(chunk, content, reason, tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, content)
    assert str(error.value) == f"{tmp_path / 'a.txt'}: {reason}"


@pytest.mark.parametrize("sign", ["\n", " ", "é"])
def test_a_document_too_long_for_the_memory_comes_in_parts(sign, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(documents, "CHUNK", 50)
    monkeypatch.setattr(documents, "LONGEST", 100)
    long = ("é" * 20 + sign) * 20
    parts = read(tmp_path, f"short\n<|endoftext|>\n{long}".encode())
    assert parts[0] == "short" and 5 < len(parts) < 20 and all(len(part.encode()) <= 100 for part in parts)
    assert (sign if sign == "\n" else "").join(parts[1:]) == long.rstrip("\n")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"has a document of {len(long.encode()) + 1} bytes" in said and "in parts" in said


def test_the_end_of_a_text_is_cut_off():
    text = "\n".join(f"line {number} of a novel" for number in range(1000))
    beginning, end = cut_end(text, 8, 16)
    assert beginning + "\n" + end == text and end.startswith("line ") and 300 < len(end) <= 8 * 16 * 4
    beginning, end = cut_end(text, 10**6, 16)
    assert 0.2 * len(text) < len(end) <= 0.25 * len(text)
    beginning, end = cut_end("word " * 100, 8, 16)
    assert beginning.endswith("word") and end.startswith("word")
    assert cut_end("x" * 100, 8, 16) == ("x" * 75, "x" * 25)
    assert cut_end("a short text", 8, 16) is None and cut_end("", 8, 16) is None and cut_end(" " * 400, 8, 16) is None
