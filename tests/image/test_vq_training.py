"""The training loop of a VQ tokenizer. Alone: pytest tests/image/test_vq_training.py"""

from copy import deepcopy

import pytest
import torch
from PIL import Image

from hypergen.errors import CheckpointError, Interrupted, NonFiniteError
from hypergen.image import vq_training
from hypergen.image.pixels import to_patches, to_pixels, to_unit
from hypergen.image.vq_tokenizer import VQTokenizer
from hypergen.image.vq_training import CODE_DIM, PATCH, decibels, new_vq, start_as_components, train_vq
from hypergen.training.plan import TrainingHooks
from tests.image.tiny import SIZE, pictures, psnr, smooth_pixels


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
            hooks=TrainingHooks(
                on_checkpoint=lambda state: states.append(deepcopy(state)),
                stop_signal=lambda: 15 if next(polls) == after else None,
            ),
        )
    assert [state.step for state in states] == [after]
    resumed = train_vq(smooth_pixels(64), 16, 12, 0, hooks=TrainingHooks(state=states[0])).state_dict()
    assert all(expected[name].equal(resumed[name]) for name in expected)


def test_checkpoints_of_training_change_nothing():
    steps = []
    hooks = TrainingHooks(on_checkpoint=lambda state: steps.append(state.step))
    watched = train_vq(smooth_pixels(64), 16, 5, 0, checkpoint_every=2, hooks=hooks)
    plain = train_vq(smooth_pixels(64), 16, 5, 0).state_dict()
    assert steps == [2, 4, 5]
    assert all(plain[name].equal(weight) for name, weight in watched.state_dict().items())


def test_training_lowers_the_error():
    pixels = smooth_pixels(64)
    start, trained = (VQTokenizer(train_vq(pixels, 32, steps, 0), SIZE) for steps in (0, 60))
    before, after = (psnr(codec.decode(codec.encode(pictures(64))), pictures(64)) for codec in (start, trained))
    assert after > before + 0.5


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    first, again, other = (train_vq(smooth_pixels(16), 8, 2, seed).state_dict() for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(state)
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_a_loss_that_is_not_finite_stops_before_the_step(monkeypatch):
    monkeypatch.setattr(vq_training, "COMMITMENT", float("nan"))
    with pytest.raises(NonFiniteError, match="picture tokenizer, step 0: loss nan"):
        train_vq(smooth_pixels(16), 8, 2, 0)


def test_a_state_of_another_training_is_refused():
    states = []
    hooks = TrainingHooks(on_checkpoint=lambda state: states.append(deepcopy(state)))
    train_vq(smooth_pixels(16), 8, 1, 0, hooks=hooks)
    with pytest.raises(CheckpointError, match="do not fit this model"):
        train_vq(smooth_pixels(16), 9, 2, 0, hooks=TrainingHooks(state=states[0]))


def test_the_start_is_the_projection_on_principal_components():
    """Without quantisation the untrained network gives nearly the same as the components from a singular value
    decomposition, which share no code with it."""
    patches = to_patches(to_unit(smooth_pixels(64)), PATCH)
    flat = patches.movedim(1, -1).flatten(0, -2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = new_vq(SIZE, 8).eval()
    start_as_components(model, flat)
    with torch.no_grad():
        found = model.decode(model.encode(patches).latents, force_not_quantize=True).sample
    mean = flat.mean(0)
    basis = torch.linalg.svd(flat - mean, full_matrices=False)[2][:CODE_DIM]
    expected = ((flat - mean) @ basis.T @ basis + mean).view(64, *patches.shape[2:], -1).movedim(-1, 1)
    assert float((found - expected).square().mean()) < 1e-2 * float((patches - mean[:, None, None]).square().mean())


def test_decibels():
    assert [decibels(error) for error in (4.0, 0.04, 0.0)] == pytest.approx([0, 20, 126.02], abs=0.01)
