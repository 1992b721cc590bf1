"""Any damage to a listed file or to the list itself is found. Alone: pytest tests/storage/test_manifest.py"""

import hashlib
import json
import os

import pytest

from hypergen.errors import CheckpointError
from hypergen.storage import manifest
from hypergen.storage.atomic import publish
from hypergen.storage.manifest import build_manifest, check_manifest
from tests.storage.faulty_disk import flip, write_two


def edit_manifest(change):
    def damage(folder):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(change(manifest)))

    return damage


DAMAGES = {
    "flipped bit": lambda folder: flip(folder / "a.txt"),
    "truncated": lambda folder: (folder / "deep" / "b.txt").write_text(""),
    "missing file": lambda folder: (folder / "a.txt").unlink(),
    "a folder in its place": lambda folder: ((folder / "a.txt").unlink(), (folder / "a.txt").mkdir()),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "not JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "not UTF-8": lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
    "deep JSON": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "huge number": lambda folder: (folder / "manifest.json").write_text("1" * 5000),
    "a list": edit_manifest(lambda manifest: [1]),
    "newer format": edit_manifest(lambda manifest: manifest | {"format": 2}),
    "no format": edit_manifest(lambda manifest: {"files": {}}),
    "files a number": edit_manifest(lambda manifest: manifest | {"files": 3}),
    "entry a number": edit_manifest(lambda manifest: manifest | {"files": {"a.txt": 3}}),
    "entry without hash": edit_manifest(lambda manifest: manifest | {"files": {"a.txt": {"bytes": 1}}}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_manifest_finds_damage(damage, tmp_path):
    publish(tmp_path / "new", write_two)
    damage(tmp_path / "new")
    with pytest.raises(CheckpointError) as error:
        check_manifest(tmp_path / "new")
    assert str(tmp_path / "new") in str(error.value) and "\n" not in str(error.value)


def test_every_file_is_listed_with_size_and_digest(tmp_path):
    write_two(tmp_path)
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"b").hexdigest()}
    assert build_manifest(tmp_path)["files"]["deep/b.txt"] == entry
    assert list(build_manifest(tmp_path)["files"]) == ["a.txt", "deep/b.txt"]


def test_the_names_of_whole_files_come_back(tmp_path):
    publish(tmp_path / "new", write_two)
    (tmp_path / "new" / "later.txt").touch()  # not listed, so not compared
    assert check_manifest(tmp_path / "new") == {"a.txt", "deep/b.txt"}


def test_what_is_not_listed_is_found_where_the_whole_folder_counts(tmp_path):
    publish(tmp_path / "new", write_two)
    beside = ("-f32.gguf", "-int8.safetensors")
    for name in (
        ".gitattributes",
        "run-f32.gguf",
        "run-int8.safetensors",
        "out.jsonl.unfinished",
        "checkpoints/step-1/state.json",
    ):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).touch()
    assert check_manifest(tmp_path / "new", beside=beside) == {"a.txt", "deep/b.txt"}
    for name in ("adapter_config.json", "deep/c.txt", "other.safetensors"):
        (tmp_path / "new" / name).touch()
        with pytest.raises(CheckpointError, match=rf"/{name}: is not in manifest.json"):
            check_manifest(tmp_path / "new", beside=beside)
        (tmp_path / "new" / name).unlink()


def test_an_empty_list_proves_nothing(tmp_path):
    publish(tmp_path / "new", write_two)
    edit_manifest(lambda manifest: manifest | {"files": {}})(tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"a\.txt: is not in manifest\.json"):
        check_manifest(tmp_path / "new", beside=())


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(tmp_path):
    publish(tmp_path / "new", write_two)
    (tmp_path / "new" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "new" / "manifest.json")
    with pytest.raises(CheckpointError, match="missing or not readable"):
        check_manifest(tmp_path / "new")


def test_hashing_shows_progress_in_megabytes(tmp_path, phases, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK", 300_000)
    (tmp_path / "a.bin").write_bytes(bytes(2_000_000))
    (tmp_path / "b.bin").write_bytes(b"x" * 1_000_000)
    listed = build_manifest(tmp_path, label="hash")
    assert phases() == {"hash": "3/3"}
    assert listed["files"]["a.bin"] == {"bytes": 2_000_000, "sha256": hashlib.sha256(bytes(2_000_000)).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    assert check_manifest(tmp_path, label="verify") == {"a.bin", "b.bin"}
    assert phases() == {"verify": "3/3"}
    check_manifest(tmp_path)
    assert phases() == {}
