"""Where image models lie. Alone: pytest tests/image/test_locate.py"""

import pytest

from hypergen.errors import InputError
from hypergen.image.adapter import load
from hypergen.image.config import Settings
from hypergen.image.locate import locate
from hypergen.image.tokenizer import new_codec
from tests.image.tiny import NoCheckpoints, base, config, pictures, settings


def test_no_such_base(tmp_path):
    with pytest.raises(InputError, match=r"no such folder$"):
        locate(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        locate(str(tmp_path / "file"))


def test_hub_that_cannot_be_reached(monkeypatch):
    def fail(*_, **__):
        raise OSError("a\nb")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("hypergen.image.locate.snapshot_download", fail)
    with pytest.raises(InputError, match=r"^nobody/nothing: no such folder, and the hub does not give it \(a\)$"):
        locate("nobody/nothing")


def test_hub_snapshot(monkeypatch, tmp_path):
    base("colors").save(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("hypergen.image.locate.snapshot_download", lambda *_, **__: str(tmp_path))
    found = load(source="somebody/imagegpt", settings=Settings(), allow_pickle_weights=False)
    assert found.encode(pictures(2)).equal(base("colors").encode(pictures(2)))


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    assert locate(str(tmp_path / "base")) == locate("~/base") == tmp_path / "base"


def test_a_folder_of_the_hub_s_cache_is_its_snapshot(tmp_path):
    base("colors").save(tmp_path / "models--org--name" / "snapshots" / "abc")
    cached = str(tmp_path / "models--org--name")
    assert locate(cached) == tmp_path / "models--org--name" / "snapshots" / "abc"
    codec = new_codec([], settings(image_size=None), config(codec_from=cached, vocabulary_size=None), NoCheckpoints())
    assert codec.encode(pictures(2)).equal(base("colors").encode(pictures(2))[:, 1:])


@pytest.mark.parametrize("allowed", [False, True])
def test_pickled_weights_are_downloaded_only_on_request(allowed, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("hypergen.image.locate.snapshot_download", lambda *_, **how: asked.update(how) or str(tmp_path))
    assert locate("somebody/imagegpt", allowed) == tmp_path
    assert ("pytorch_model.bin" in asked["allow_patterns"]) == allowed and asked["local_files_only"]
