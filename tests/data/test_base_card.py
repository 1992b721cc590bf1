"""What the card of a base tells, and what it cannot make us believe. Alone: pytest tests/data/test_base_card.py"""

import pytest

from hypergen.data import base_card as module
from hypergen.data.base_card import base_card
from hypergen.storage.file_names import CARD


def card(folder, head):
    (folder / CARD).write_bytes(f"---\n{head}\n---\n\n# Name\n\nlicense: gpl\n".encode())
    return base_card(str(folder))


def test_the_license_of_a_folder(tmp_path):
    assert base_card(str(tmp_path)) == {}
    assert card(tmp_path, "license: apache-2.0\ntags:\n- a") == {"license": "apache-2.0"}
    assert card(tmp_path, 'license: "mit"\r') == {"license": "mit"}
    other = "license: other\nlicense_name: a-license\nlicense_link: https://a.example/b/LICENSE"
    assert card(tmp_path, other)["license_link"] == "https://a.example/b/LICENSE"


def test_the_nearest_model_on_the_hub(tmp_path, monkeypatch):
    assert card(tmp_path, "base_model: 'some-one/their.model-1B'") == {"base_model": "some-one/their.model-1B"}
    monkeypatch.setattr(module, "_hub_card", lambda name: tmp_path / CARD)
    assert base_card("any-one/own-model") == {"base_model": "any-one/own-model"}
    assert base_card("C:\\nowhere") == {}


@pytest.mark.parametrize(
    "head",
    [
        "license: a b",
        "license: &a mit",
        "license: |\n  mit",
        "license: mit # as far as I know",
        "license: '../../etc'",
        "license: " + "a" * 65,
        "license:\n- mit",
        "base_model: /a/folder",
        "base_model: a/b/c",
        "license_link: javascript%3Aalert(1)",
        "  license: mit",
        "licence: mit",
    ],
)
def test_what_is_not_one_plain_word_is_left_out(head, tmp_path):
    assert card(tmp_path, head) == {}


@pytest.mark.parametrize(
    "content", [b"", b"---\nlicense: mit\n", b"license: mit\n---\n", b"\xff\xfe\x00---", b"# Name\n"]
)
def test_a_card_without_a_head_tells_nothing(content, tmp_path):
    (tmp_path / CARD).write_bytes(content)
    assert base_card(str(tmp_path)) == {}


def test_a_card_that_cannot_be_read_tells_nothing(tmp_path):
    (tmp_path / CARD).mkdir()
    assert base_card(str(tmp_path)) == {}


def test_the_hub_is_asked_for_the_card_alone(monkeypatch, tmp_path):
    (tmp_path / CARD).write_text("---\nlicense: mit\n---\n")
    asked = []

    def download(name, file, *, local_files_only):
        asked.append((name, file, local_files_only))
        return str(tmp_path / CARD)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert base_card("any-one/own-model") == {"license": "mit", "base_model": "any-one/own-model"}
    assert asked == [("any-one/own-model", CARD, True)]


def test_a_hub_that_fails_costs_only_the_license(monkeypatch):
    def download(*_, **__):
        raise RuntimeError("no such file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert base_card("any-one/own-model") == {"base_model": "any-one/own-model"}
