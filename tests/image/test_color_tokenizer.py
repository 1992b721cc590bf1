"""ImageGPT's palette as tokenizer. Alone: pytest tests/image/test_color_tokenizer.py"""

import json

import pytest
import torch
from transformers import ImageGPTImageProcessor

from hypergen.errors import InputError
from hypergen.image.color_tokenizer import ColorClusters
from hypergen.image.tokenizer import load_codec
from tests.image.tiny import SIZE, pictures, psnr, smooth_pixels

PALETTE = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1], [0.2, 0.3, 0.4]])


def palette_pictures(codec, count=3):
    codes = torch.randint(codec.num_codes, (count, codec.image_size**2), generator=torch.Generator().manual_seed(0))
    return codes, codec.decode(codes)


def test_palette_colours_survive_a_round_trip():
    for codec in (ColorClusters(PALETTE, 8), ColorClusters.fit(smooth_pixels(4), 32, SIZE, 0)):
        codes, shown = palette_pictures(codec)
        assert codec.encode(shown).equal(codes)
        assert codec.decode(codec.encode(shown)) == shown


def test_palette_is_distinct_and_near_the_pictures():
    codec = ColorClusters.fit(smooth_pixels(8), 64, SIZE, 0)
    assert 60 <= codec.num_codes == len(codec.clusters.unique(dim=0)) <= 64
    assert psnr(codec.decode(codec.encode(pictures(8))), pictures(8)) > 22


def test_few_colours_give_a_small_palette():
    assert ColorClusters.fit(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8), 16, 4, 0).num_codes == 1


def test_same_ids_as_imagegpt_s_own_image_processor(tmp_path):
    codec = ColorClusters(PALETTE, SIZE)
    codec.save(tmp_path)
    processor = ImageGPTImageProcessor.from_pretrained(tmp_path)
    ids = processor(pictures(3), return_tensors="pt")["input_ids"]
    assert codec.encode(pictures(3)).equal(ids.view(3, -1).long())


@pytest.mark.parametrize("size", [8, {"height": 8, "width": 8}])
def test_palette_of_old_and_new_checkpoints(size, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"clusters": PALETTE.tolist(), "size": size}))
    codec = load_codec(tmp_path)
    assert (codec.num_codes, codec.grid, codec.image_size) == (4, (8, 8), 8)


@pytest.mark.parametrize(
    "content",
    [{}, {"clusters": [[1, 2]], "size": 8}, {"clusters": [[0, 0, 9]], "size": 8}, {"clusters": "x", "size": 8},
     {"clusters": [[0, 0, 0]]}, {"clusters": [[0, 0, 0]], "size": {"height": 8, "width": 9}}],
)  # fmt: skip
def test_broken_palette(content, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"preprocessor_config\.json: (clusters|size)"):
        load_codec(tmp_path)


def test_a_palette_comes_back_as_it_was_saved(tmp_path):
    codec = ColorClusters.fit(smooth_pixels(4), 8, SIZE, 0)
    codec.save(tmp_path)
    again = ColorClusters.load(tmp_path)
    assert again.clusters.equal(codec.clusters) and again.image_size == SIZE
    assert ColorClusters.load(tmp_path, 8).grid == (8, 8)


def test_each_pixel_gets_the_nearest_colour_row_by_row():
    codec = ColorClusters(PALETTE, SIZE)
    codes = codec.encode(pictures(1))[0].tolist()
    shown = pictures(1)[0]
    colours = ((PALETTE + 1) * 127.5).tolist()
    for place, code in enumerate(codes):
        pixel = shown.getpixel((place % SIZE, place // SIZE))
        distances = [sum((a - b) ** 2 for a, b in zip(pixel, colour, strict=True)) for colour in colours]
        assert distances[code] == pytest.approx(min(distances))
