"""A codec is fitted, or found in a folder. Alone: pytest tests/image/test_tokenizer.py"""

import pytest
import torch

from hypergen.errors import InputError
from hypergen.image import tokenizer
from hypergen.image.color_tokenizer import ColorClusters
from hypergen.image.tokenizer import load_codec, new_codec
from hypergen.image.vq_tokenizer import VQTokenizer
from tests.image.tiny import SIZE, NoCheckpoints, base, config, pictures, settings, vq_folder


def test_no_codec(tmp_path):
    with pytest.raises(InputError, match="no picture codec"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"')
    with pytest.raises(InputError, match="not JSON"):
        load_codec(tmp_path)


def test_codec_of_another_base(tmp_path):
    base().save(tmp_path)
    given = config(codec_from=str(tmp_path), vocabulary_size=None)
    again = new_codec([], settings(image_size=None), given, NoCheckpoints())
    assert again.encode(pictures(2)).equal(base().encode(pictures(2))[:, 1:])
    with pytest.raises(InputError, match=r"--vocabulary-size 9: .* has 12 codes"):
        new_codec([], settings(), config(codec_from=str(tmp_path), vocabulary_size=9), NoCheckpoints())


def test_size_that_the_codec_cannot_divide():
    with pytest.raises(InputError, match=r"--image-size 18: must be a multiple .* 4 pixels"):
        new_codec(pictures(2), settings(image_size=18), config(), NoCheckpoints())


@pytest.mark.parametrize(("name", "kind"), [("vq", VQTokenizer), ("colors", ColorClusters)])
def test_each_codec_is_found_where_it_was_saved(name, kind, tmp_path):
    codec = new_codec(pictures(8), settings(codec=name), config(), NoCheckpoints())
    assert isinstance(codec, kind) and codec.image_size == SIZE and codec.num_codes <= 12
    codec.save(tmp_path)
    again = load_codec(tmp_path)
    assert isinstance(again, kind) and again.encode(pictures(3)).equal(codec.encode(pictures(3)))


def test_the_folder_of_a_vq_model_alone_will_do(tmp_path):
    assert isinstance(load_codec(vq_folder(tmp_path)), VQTokenizer)


def test_only_as_many_pictures_as_the_memory_holds_are_read(monkeypatch):
    items, seen = pictures(6), []
    monkeypatch.setattr(tokenizer, "BYTES_TO_FIT", 3 * SIZE**2 * 2)
    monkeypatch.setattr(ColorClusters, "fit", lambda pixels, *_: seen.append(pixels) or "codec")
    assert new_codec(items, settings(codec="colors"), config(), NoCheckpoints()) == "codec"
    assert seen[0].shape == (2, 3, SIZE, SIZE) and seen[0].dtype == torch.uint8
    again = [seen[0]]
    new_codec(items, settings(codec="colors"), config(), NoCheckpoints())
    assert seen[1].equal(again[0]), "the choice does not depend on the seed alone"


def test_the_training_of_a_codec_names_its_pictures_and_asks_the_checkpoints():
    class Recorded(NoCheckpoints):
        parts, saved = [], []

        def part(self, name, facts):
            self.parts.append((name, facts))
            return self

        def save(self, state):
            self.saved.append(state.step)

    checkpoints = Recorded()
    for seed in (0, 1):
        new_codec(pictures(8, seed=seed), settings(codec_steps=3), config(checkpoint_every=2), checkpoints)
    assert checkpoints.saved == [2, 3, 2, 3]
    (first, facts), (second, others) = checkpoints.parts
    assert first == second == "." and facts.keys() == others.keys() == {"pictures of SHA-256"} and facts != others
