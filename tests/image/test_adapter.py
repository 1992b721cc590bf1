"""The image adapter keeps the contract, and what only pictures have. Alone: pytest tests/image/test_adapter.py"""

import json
import stat

import pytest
import torch
from PIL import Image, ImageOps

from hypergen import testing as contract
from hypergen.config import FitConfig
from hypergen.decoding.loop import generate
from hypergen.decoding.self_samples import sample_training_set
from hypergen.errors import InputError
from hypergen.image import adapter
from hypergen.image.adapter import load, read
from hypergen.image.config import Settings
from tests.image.tiny import SIZE, base, new_base, pictures

CODECS = ["vq", "colors"]


def load_from(folder, **options):
    return load(source=str(folder), settings=Settings(**options), allow_pickle_weights=False)


class Counting(list):
    """Items that remember which of them were looked at."""

    def __init__(self, items):
        super().__init__(items)
        self.seen = []

    def __getitem__(self, index):
        self.seen.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("codec", CODECS)
def test_model_keeps_the_contract(codec):
    tokens = base(codec).encode(pictures(3))
    contract.check_model(base(codec).model, tokens[:, : min(24, tokens.shape[1] - 1)])


@pytest.mark.parametrize("codec", CODECS)
def test_codec_keeps_the_contract(codec, tmp_path):
    contract.check_codec(base(codec), pictures(4))
    contract.check_written(base(codec), pictures(4), tmp_path)


@pytest.mark.parametrize("codec", CODECS)
def test_saved_and_loaded(codec, tmp_path):
    contract.check_saved(base(codec), adapter, Settings(), pictures(3), tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert len(modes) == 1, "safetensors files have another mode than JSON files"


def test_half_precision_is_stored_and_read_as_fp32(tmp_path):
    base().save(tmp_path, torch.float16)
    again = load_from(tmp_path)
    assert {weight.dtype for weight in again.model.parameters()} == {torch.float32}
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * sum(w.numel() * 4 for w in again.model.parameters())
    assert next(base().model.parameters()).dtype == torch.float32


def test_a_sequence_is_the_start_token_and_the_codes():
    tokens = base().encode(pictures(3))
    assert tokens.shape == (3, base().sequence_length) == (3, 17)
    assert tokens[:, 0].tolist() == [12] * 3 and int(tokens[:, 1:].max()) < 12


def test_only_chosen_pictures_are_read():
    items = Counting(pictures(6))
    tokens, loss_mask = base().encode_training(items, count=2, seed=1)
    assert len(items.seen) == len(set(items.seen)) == 2
    assert tokens.equal(base().encode([list(items)[row] for row in items.seen]))
    assert not base().encode_training(pictures(2), 2, 0).tokens.equal(tokens) and loss_mask is None


def test_many_pictures_show_progress_and_one_prompt_does_not(phases):
    modality = base("vq")
    tokens = modality.encode(pictures(5))
    assert phases() == {"encode pictures": "5/5"}
    modality.decode(tokens)
    assert phases() == {"decode pictures": "5/5"}
    modality.encode_prompt(pictures(1)[0])
    assert phases() == {}
    base("colors").decode(base("colors").encode(pictures(2)))
    assert phases() == {"encode pictures": "2/2", "decode pictures": "2/2"}


def test_too_many_samples_names_both_numbers():
    with pytest.raises(InputError, match=r"^--num-samples 7: there are only 6 pictures$"):
        base().encode_training(pictures(6), count=7)


def test_examples_are_as_many_as_there_are():
    assert len(base().encode_held_out(pictures(3), 64).tokens) == 3
    assert len(base().encode_held_out(pictures(3), 2).tokens) == 2
    with pytest.raises(InputError, match="there are none"):
        base().encode_held_out([], 4)


def test_mirrored_pictures_follow_where_everything_is_encoded():
    mirroring = base("colors").with_settings(Settings(mirror=True))
    tokens = mirroring.encode(pictures(3))
    assert len(tokens) == 6
    assert tokens[3:].equal(base("colors").encode([ImageOps.mirror(picture) for picture in pictures(3)]))
    assert len(mirroring.encode_training(pictures(3), count=3).tokens) == 3


@pytest.mark.parametrize(("fraction", "length"), [(0, 1), (0.25, 5), (0.5, 9), (0.99, 13)])
def test_prompt_fraction_keeps_whole_rows(fraction, length):
    modality = base().with_settings(Settings(prompt_fraction=fraction))
    tokens = modality.encode(pictures(2))
    assert modality.prompts(tokens).equal(tokens[:, :length])
    assert modality.encode_prompt(pictures(2)[1]).equal(tokens[1, :length])
    assert modality.max_new_tokens(length) == 17 - length


def test_start_tokens_are_prepended_and_codes_checked():
    assert base().add_start_tokens(torch.tensor([[3, 4]])).tolist() == [[12, 3, 4]]
    assert base().add_start_tokens(torch.empty(2, 0, dtype=torch.long)).tolist() == [[12], [12]]
    for wrong in (12, -1):
        with pytest.raises(InputError, match=f"id {wrong} is not a code; allowed are 0 to 11"):
            base().add_start_tokens(torch.tensor([[3, wrong]]))
    with pytest.raises(InputError, match="16 codes leave nothing to complete"):
        base().add_start_tokens(torch.zeros(1, 16, dtype=torch.long))


def test_decode_takes_exactly_one_picture_of_codes():
    tokens = base().encode(pictures(2))
    assert base().decode(tokens) == base().decode(tokens[:, 1:])
    with pytest.raises(InputError, match="15 codes: must be 4 x 4"):
        base().decode(tokens[:, 2:])
    with pytest.raises(InputError, match="must be codes, 0 to 11"):
        base().decode(torch.cat([tokens[:, 1:-1], tokens[:, :1]], 1))


def test_rendered_pictures_are_whole():
    tokens = base().encode(pictures(3))
    prompts, completions = list(tokens[:, :5]), tokens[:, 5:]
    assert base().render(prompts, completions) == base().decode(tokens)
    assert base().render([], torch.empty(0, 12, dtype=torch.long)) == []
    with pytest.raises(InputError, match="17 codes: must be 4 x 4"):
        base().render(prompts, torch.cat([completions, completions[:, :1]], 1))


def test_what_has_no_codes_is_grey():
    tokens = base().encode(pictures(1))
    picture = base().render([tokens[0, :5]], tokens[:, 5:7])[0]  # one row and two codes of the second
    grey = torch.tensor([[picture.getpixel((x, y)) == (128, 128, 128) for x in range(SIZE)] for y in range(SIZE)])
    assert grey[8:].all() and grey[4:8, 8:].all()
    assert not grey[:4].all() and not grey[4:8, :8].all()


def test_a_figure_puts_the_prompt_first():
    tokens = base().encode(pictures(3))
    shown = base().comparison_figure(tokens[:, :5], {"one": tokens[:, 5:], "two": tokens[:, 5:]})
    shown = shown.content
    assert shown.mode == "RGB" and shown.width >= 3 * 96 and shown.height >= 3 * 96


def test_files_are_numbered_png(tmp_path):
    paths = base().write(pictures(2), tmp_path / "samples")
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    assert Image.open(paths[1]).convert("RGB").tobytes() == pictures(2)[1].tobytes()


def test_generated_from_nothing_and_from_a_prompt():
    own = sample_training_set(base(), 3, seed=0, purpose="training")
    assert own.shape == (3, 17) and len(base().decode(own)) == 3
    prompt = base().encode_prompt(pictures(1)[0])
    completion = generate(base().model, [prompt], base().max_new_tokens(len(prompt)))
    assert base().render([prompt], completion)[0].size == (SIZE, SIZE)


def test_same_seed_same_base_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first = new_base(pictures(8))
    assert torch.get_rng_state().equal(before)
    tokens = first.encode(pictures(2))
    assert tokens.equal(base().encode(pictures(2)))
    assert first.model.lm_head.weight.equal(base().model.lm_head.weight)
    assert not new_base(pictures(8), seed=1).encode(pictures(2)).equal(tokens)


def test_image_size_must_be_the_base_s(tmp_path):
    base().save(tmp_path)
    assert load_from(tmp_path, image_size=SIZE).settings.image_size == SIZE
    with pytest.raises(InputError, match=r"^--image-size 20: .* 16 wide$"):
        load_from(tmp_path, image_size=20)


def test_model_and_codec_that_do_not_belong_together(tmp_path):
    base().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_positions": 25}))
    with pytest.raises(InputError, match=r"\(12, 25\) codes and positions, .* \(12, 16\)$"):
        load_from(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "codec/config.json"])
def test_incomplete_base(missing, tmp_path):
    base().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError) as error:
        load_from(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damaged", ["model.safetensors", "codec/diffusion_pytorch_model.safetensors"])
def test_truncated_weights(damaged, tmp_path):
    base().save(tmp_path)
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError) as error:
        load_from(tmp_path)
    assert "\n" not in str(error.value)


def test_read_is_lazy(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    pictures(1)[0].save(tmp_path / "b.png")
    items = read(source=str(tmp_path), settings=Settings(), skip_bad=0)
    assert len(items) == 2 and items[1].size == (SIZE, SIZE)
    with pytest.raises(InputError, match=r"a\.png"):
        base().encode(items)


def test_bad_pictures_are_skipped_on_request(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    pictures(1)[0].save(tmp_path / "b.png")
    assert len(read(source=str(tmp_path), settings=Settings(), skip_bad=1)) == 1
    assert "a.png" in capsys.readouterr().err


def test_a_picture_is_an_item_without_text():
    assert base().is_item(pictures(1)[0]) and not base().is_item(pictures(2)) and not base().is_item("a.png")
    assert base().as_text(pictures(1)[0]) is None


def test_whole_pictures_are_compared():
    assert base().num_compared_tokens(12) == 12


def test_a_fit_changes_no_setting_of_pictures():
    mirrored = Settings(mirror=True)
    assert adapter.prepare_fit(settings=mirrored, config=FitConfig(modality="image", last_layers=1)) == mirrored


def test_metrics_are_described_in_the_order_of_the_columns():
    names = ["rows_copied", "codes_equal_above", "patches_repeated", "run_longest", "run_mean", "codebook_use",
             "codebook_perplexity", "kid", "fid", "precision", "recall", "nearest_training"]  # fmt: skip
    assert list(adapter.METRICS) == names
    tokens = base().encode(pictures(2))
    assert base().metrics(tokens[:, :5], tokens[:, 5:]).keys() == set(names[:7])
    assert [name for name, metric in adapter.METRICS.items() if metric.is_verdict] == ["rows_copied"]
    assert [name for name, metric in adapter.METRICS.items() if metric.is_detail] == names[3:7]
    assert not any(metric.is_diversity for metric in adapter.METRICS.values())


def test_a_prompt_of_another_type_is_named():
    for number, told in ((None, "prompt: is of type str"), (3, "prompt 3: is of type str")):
        with pytest.raises(InputError, match=f"^{told}; a picture"):
            base().encode_prompt("a.png", number)


def test_the_settings_know_the_codec_s_size():
    assert base().with_settings(Settings()).settings.image_size == SIZE
