"""Word lists: written, read strictly, found through a card. Alone: pytest tests/text/test_word_list.py"""

from __future__ import annotations

import gzip
import json

import pytest

from hypergen.errors import CheckpointError, InputError
from hypergen.storage.atomic import publish
from hypergen.storage.manifest import check_manifest
from hypergen.text.config import NAMED_BASES
from hypergen.text.word_list import WordList, add_words, embedded_folder, find_words, read_words, write_words

COUNTS = {"sea": 3, "o'clock": 2, "zwölf": 2, "slip": 1}
LARGEST = 300_000  # bytes of the list that comes with hypergen


def refusal(call, *arguments):
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "words.txt.gz"
    assert write_words(path, COUNTS) == 3
    assert read_words(path) == {"sea", "o'clock", "zwölf"}
    assert gzip.decompress(path.read_bytes()).decode() == "o'clock\nsea\nzwölf\n"
    before = path.read_bytes()
    write_words(path, dict(reversed(COUNTS.items())))
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["words.txt.gz"]
    assert write_words(path, COUNTS, least=1) == 4 and "slip" in read_words(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "words.gz: has no word"),
        (b"b\na\n", "words.gz:2: must stand behind the word before it, by code points, and once"),
        (b"a\na\n", "words.gz:2: must stand behind the word before it, by code points, and once"),
        (b"a\nTwo\n", "words.gz:2: must be one word in lower case"),
        (b"two words\n", "words.gz:1: must be one word in lower case"),
        (b"a\n\nb\n", "words.gz:2: must be one word in lower case"),
        (b"a\r\n", "words.gz:1: must be one word in lower case"),
        (b"3\n", "words.gz:1: must be one word in lower case"),
        (b"a\nb\xff\n", "words.gz:2: is not UTF-8"),
        (b"a\0\n", "words.gz:1: must be one word in lower case"),
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_reading_is_strict(content, reason, pack, tmp_path):
    path = tmp_path / "words.gz"
    path.write_bytes(pack(content))
    assert refusal(read_words, path) == f"{tmp_path}/{reason}"


def test_a_damaged_file_and_none(tmp_path):
    path = tmp_path / "words.txt.gz"
    write_words(path, {f"word{'x' * n}": 2 for n in range(200)})
    path.write_bytes(path.read_bytes()[:-6])
    assert "cannot be unpacked (gzip: " in refusal(read_words, path)
    path.write_bytes(gzip.compress(b"a" * 2**27))
    assert "would unpack to more than" in refusal(read_words, path)
    assert refusal(read_words, tmp_path / "none.gz") == f"{tmp_path}/none.gz: No such file or directory"


def test_the_card_in_a_folder_names_its_list(tmp_path):
    assert find_words(str(tmp_path)) is None  # no card
    card = tmp_path / "hypergen.json"
    card.write_text(json.dumps({"modality": "text"}))
    assert find_words(str(tmp_path)) is None
    write_words(tmp_path / "list.gz", COUNTS)
    card.write_text(json.dumps({"words": {"file": "list.gz", "from": "seen\x1b twice"}}))
    found = find_words(str(tmp_path))
    assert found.words is found.words and found.words == {"sea", "o'clock", "zwölf"}
    assert found.describe() == "share of words in a list of 3: seen twice; cut words do not count"


def test_a_run_has_the_list_of_the_base_it_goes_back_to(tmp_path):
    def record(name, **facts):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "hypergen.json").write_text(json.dumps(facts))
        return str(tmp_path / name)

    base = record("base", words={"file": "list.gz", "from": "x"})
    write_words(tmp_path / "base" / "list.gz", COUNTS)
    run = record("run", modality="text", base=base)
    assert find_words(run).path == find_words(record("again", base=run)).path == tmp_path / "base" / "list.gz"
    for embedded in ("text", "smollm2-135m"):
        assert find_words(record("run", base=embedded)).path.parent == embedded_folder()
    for none in ("someone/some-model", str(tmp_path / "gone"), str(tmp_path / "run"), 3):
        assert find_words(record("run", base=none)) is None
    record("base", base=str(tmp_path / "run"))
    assert find_words(record("run", base=base)) is None  # a circle


@pytest.mark.parametrize("source", ["someone/some-model", "model.gguf", "/nowhere"])
def test_any_other_source_has_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert find_words(source) is None


def test_a_finished_base_gets_a_list_and_stays_as_its_manifest_says(tmp_path):
    base = tmp_path / "base"

    def write(folder):
        (folder / "hypergen.json").write_text('{"modality": "text", "steps": 3}')
        (folder / "model.safetensors").write_bytes(b"weights")

    publish(base, write)
    for least in (2, 3):  # and another one in its place
        assert add_words(base, COUNTS, "the sea", least) == {2: 3, 3: 1}[least]
        assert check_manifest(base) == {"hypergen.json", "model.safetensors", "words.txt.gz"}
    assert find_words(str(base)).words == {"sea"} and "the sea" in find_words(str(base)).describe()
    card = json.loads((base / "hypergen.json").read_text())
    assert card == {"modality": "text", "steps": 3, "words": {"file": "words.txt.gz", "from": "the sea"}}
    (base / "model.safetensors").write_bytes(b"Weights")
    add_words(base, COUNTS, "the sea")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing, or its content"):
        check_manifest(base)  # what nobody meant to change is still found


@pytest.mark.parametrize("words", ["list.gz", 3, [], {"file": "list.gz"}, {"file": 1, "from": "x"}])
def test_another_form_of_the_entry_is_refused(words, tmp_path):
    (tmp_path / "hypergen.json").write_text(json.dumps({"words": words}))
    said = "'words': must be an object with the strings 'file' and 'from'"
    assert refusal(find_words, str(tmp_path)) == f"{tmp_path}/hypergen.json: {said}"


@pytest.mark.parametrize("file", ["", ".", "..", "../list.gz", "/etc/passwd", "a/list.gz", "none.gz", "x" * 300, "\0"])
def test_no_file_elsewhere_is_a_list(file, tmp_path):
    base = tmp_path / "base"
    (base / "a").mkdir(parents=True)
    for folder in (base / "a", tmp_path):
        write_words(folder / "list.gz", COUNTS)
    (base / "hypergen.json").write_text(json.dumps({"words": {"file": file, "from": "x"}}))
    assert refusal(find_words, str(base))


def test_the_list_that_comes_with_hypergen():
    folder = embedded_folder()
    found = find_words(str(folder))
    assert found.path == folder / "words.txt.gz" and found.path.stat().st_size <= LARGEST
    assert {"the", "don't", "harbour", "gulls"} <= found.words
    assert not {"toydfulsk", "wonderfulouths", "thecementall"} & found.words
    assert found.path.name in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", NAMED_BASES)
def test_a_named_base_shares_it_and_says_so(name):
    found = find_words(name)
    assert isinstance(found, WordList) and found.path.parent == embedded_folder() and found.path.is_file()
    assert "not what this model was pretrained on" in found.describe()
