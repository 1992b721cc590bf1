"""Any VQModel of diffusers as tokenizer. Alone: pytest tests/image/test_vq_tokenizer.py"""

import json
import logging

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file

from hypergen.errors import InputError
from hypergen.image.pixels import to_pixels, to_unit
from hypergen.image.tokenizer import load_codec
from hypergen.image.vq_tokenizer import VQTokenizer, check_divisible, is_vq_folder
from hypergen.image.vq_training import PATCH
from tests.image.tiny import SIZE, base, pictures, vq_folder


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


def test_codes_do_not_depend_on_the_batch(monkeypatch):
    codec = base().codec
    codes = codec.encode(pictures(5))
    monkeypatch.setattr(codec, "batch_size", 2)
    assert codec.encode(pictures(5)).equal(codes)
    assert codec.decode(codes)[4].size == (SIZE, SIZE)


def test_a_saved_codec_does_not_say_where_it_came_from(tmp_path):
    load_codec(vq_folder(tmp_path / "secret")).save(tmp_path / "saved")
    assert "secret" not in (tmp_path / "saved" / "codec" / "config.json").read_text()
    assert is_vq_folder(tmp_path / "saved" / "codec") and not is_vq_folder(tmp_path / "saved")


@pytest.mark.parametrize(("size", "stride"), [(18, 4), (3, 4), (0, 4)])
def test_a_side_must_be_a_multiple_of_the_stride(size, stride):
    check_divisible(4 * stride, stride)
    with pytest.raises(InputError, match=f"--image-size {size}: must be a multiple of the codec's stride of {stride}"):
        check_divisible(size, stride)


@pytest.mark.parametrize("changes", [{"sample_size": 10**6}, {"layers_per_block": 0}, {"num_vq_embeddings": 10**9}])
def test_sizes_that_the_weights_cannot_have_are_refused_before_anything_is_built(changes, tmp_path):
    path = vq_folder(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        VQTokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_loading_leaves_log_level_and_random_state_alone(tmp_path):
    folder, logger = vq_folder(tmp_path), logging.getLogger("diffusers.models.modeling_utils")
    level, state = logger.level, torch.get_rng_state()
    VQTokenizer.load(folder)
    assert logger.level == level and torch.get_rng_state().equal(state)
