"""Palette and VQ tokenizers. Alone: pytest tests/image/test_codecs.py"""

import json
from copy import deepcopy

import pytest
import torch
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ImageGPTImageProcessor

from hypergen.errors import InputError, Interrupted
from hypergen.image.codecs import load_codec
from hypergen.image.colors import ColorClusters
from hypergen.image.pixels import from_unit, square, to_pictures, to_pixels, to_unit
from hypergen.image.vq import VQTokenizer
from hypergen.image.vq_training import PATCH, decibels, nearest, train_vq
from tests.image.tiny import SIZE, base, pictures, smooth_pixels, vq_folder

PALETTE = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1], [0.2, 0.3, 0.4]])


def palette_pictures(codec, count=3):
    codes = torch.randint(codec.num_codes, (count, codec.image_size**2), generator=torch.Generator().manual_seed(0))
    return codes, codec.decode(codes)


def psnr(found, expected):
    error = to_unit(to_pixels(found, SIZE)) - to_unit(to_pixels(expected, SIZE))
    return decibels(float(error.square().mean()))


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


def test_ordinary_vq_model_of_diffusers(tmp_path):
    """Same codes and pixels as diffusers itself gives; without patches the stride is that of the levels."""
    codec = load_codec(vq_folder(tmp_path, levels=3))
    assert (codec.patch, codec.stride, codec.grid, codec.image_size, codec.num_codes) == (1, 4, (4, 4), SIZE, 10)
    model = VQModel.from_pretrained(tmp_path)
    with torch.no_grad():
        latents = model.encode(to_unit(to_pixels(pictures(3), SIZE))).latents
        quantised, _, (_, _, ids) = model.quantize(latents)
        expected = model.decode(quantised, force_not_quantize=True).sample
    codes = codec.encode(pictures(3))
    assert codes.flatten().equal(ids.flatten()) and len(codes.unique()) > 1
    found = to_unit(to_pixels(codec.decode(codes), SIZE))
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"norm_type": "spatial", "block_out_channels": (32, 32)}, {"lookup_from_codebook": True}]
)
def test_other_vq_models_decode(changes, tmp_path):
    codec = load_codec(vq_folder(tmp_path, **changes))
    assert codec.decode(codec.encode(pictures(1)))[0].size == (SIZE, SIZE)


def test_stride_that_does_not_divide_names_both_numbers(tmp_path):
    folder = vq_folder(tmp_path, levels=3)
    assert load_codec(folder, 24).grid == (6, 6)
    with pytest.raises(InputError, match=r"--image-size 18: .* 4 pixels"):
        load_codec(folder, 18)


def test_another_size_is_saved_and_read_back(tmp_path):
    load_codec(vq_folder(tmp_path / "given"), 24).save(tmp_path / "saved")
    again = load_codec(tmp_path / "saved")
    assert again.image_size == 24 and again.grid == (12, 12)


def test_patches_are_folded_into_channels():
    codec = base().codec
    assert (codec.patch, codec.stride, codec.grid) == (PATCH, PATCH, (SIZE // PATCH, SIZE // PATCH))
    assert codec.model.config.sample_size == SIZE // PATCH


@pytest.mark.parametrize("channels", [(6, 6), (3, 12)])
def test_channels_that_are_not_patches(channels, tmp_path):
    with pytest.raises(InputError, match=f"channels are {channels[0]} in and {channels[1]} out"):
        load_codec(vq_folder(tmp_path, in_channels=channels[0], out_channels=channels[1]))


def test_missing_weight(tmp_path):
    path = vq_folder(tmp_path) / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["quant_conv.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"quant_conv\.weight"):
        load_codec(tmp_path)


def test_no_codec(tmp_path):
    with pytest.raises(InputError, match="no picture codec"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"')
    with pytest.raises(InputError, match="not JSON"):
        load_codec(tmp_path)


def test_untrained_start_reconstructs_better_than_chance():
    """No step of training: principal components and k-means alone beat the mean colour, and by far random codes."""
    shown = pictures(64)
    codec = VQTokenizer(train_vq(smooth_pixels(64), 64, 0, 0), SIZE)
    codes = codec.encode(shown)
    mean = [Image.new("RGB", (SIZE, SIZE), tuple(map(int, to_pixels(shown, SIZE).float().mean((0, 2, 3)))))] * 64
    random = torch.randint(64, codes.shape, generator=torch.Generator().manual_seed(0))
    restored = psnr(codec.decode(codes), shown)
    assert restored > psnr(mean, shown) + 3 and restored > psnr(codec.decode(random), shown) + 6
    assert len(codes.unique()) > 32


@pytest.mark.parametrize("after", [1, 7, 12])
def test_training_goes_on_bit_for_bit(after):
    """Stopped early, where codes are still revived, later, and after the last step."""
    expected, states = train_vq(smooth_pixels(64), 16, 12, 0).state_dict(), []
    polls = iter(range(1, 13))
    with pytest.raises(Interrupted, match=f"signal 15 after step {after} of the picture tokenizer; --resume continues"):
        train_vq(
            smooth_pixels(64),
            16,
            12,
            0,
            on_checkpoint=lambda state: states.append(deepcopy(state)),
            stop_signal=lambda: 15 if next(polls) == after else None,
        )
    assert [state.step for state in states] == [after]
    resumed = train_vq(smooth_pixels(64), 16, 12, 0, state=states[0]).state_dict()
    assert all(expected[name].equal(resumed[name]) for name in expected)


def test_checkpoints_of_training_change_nothing():
    steps = []
    watched = train_vq(
        smooth_pixels(64), 16, 5, 0, checkpoint_every=2, on_checkpoint=lambda state: steps.append(state.step)
    )
    plain = train_vq(smooth_pixels(64), 16, 5, 0).state_dict()
    assert steps == [2, 4, 5]
    assert all(plain[name].equal(weight) for name, weight in watched.state_dict().items())


def test_pictures_of_any_size_become_centre_squares():
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (10, 0, 30, 20))
    assert square(wide, 20).getcolors() == [(400, (0, 0, 255))]
    assert square(wide.convert("L"), 7).mode == "RGB"
    assert square(pictures(1)[0], SIZE) == pictures(1)[0]


def test_codes_do_not_depend_on_the_batch(monkeypatch):
    codec = base().codec
    codes = codec.encode(pictures(5))
    monkeypatch.setattr(codec, "batch_size", 2)
    assert codec.encode(pictures(5)).equal(codes)
    assert codec.decode(codes)[4].size == (SIZE, SIZE)


def test_nearest_is_the_nearest():
    generator = torch.Generator().manual_seed(0)
    points, book = torch.rand(50, 3, generator=generator), torch.rand(7, 3, generator=generator)
    assert nearest(points, book).equal(torch.cdist(points, book).argmin(1))


def test_pixels_and_pictures():
    pixels = smooth_pixels(2)
    assert to_pixels(to_pictures(pixels), SIZE).equal(pixels)
    assert from_unit(to_unit(pixels)).equal(pixels)
