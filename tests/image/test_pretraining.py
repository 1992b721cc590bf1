"""A picture base from scratch, stopped in its tokenizer or its transformer, goes on bit for bit.

Alone: pytest tests/image/test_pretraining.py
"""

import pytest

import hypergen
from hypergen.image import vq_training
from hypergen.training import loop
from tests.conftest import tree
from tests.image.tiny import SIZE, pictures
from tests.test_interruption import interrupt

SIZES = {"width": 16, "num_layers": 1, "num_heads": 2, "vocabulary_size": 8, "batch_size": 4}


@pytest.fixture
def pretrain(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures(8)):
        picture.save(tmp_path / "pictures" / f"{number}.png")

    def run(name, **options):
        steps = {"codec_steps": 6, "steps": 6, "checkpoint_every": 2, "image_size": SIZE}
        source, target = str(tmp_path / "pictures"), str(tmp_path / name)
        return hypergen.pretrain(
            modality="image", data=source, output=target, device="cpu", **SIZES, **steps, **options
        ).folder

    return run


def test_it_goes_on_bit_for_bit(pretrain, tmp_path, monkeypatch):
    whole = pretrain("whole")
    for module, name, told in (
        (vq_training, "decibels", "of the picture tokenizer"),
        (loop, "backward", "after step 3;"),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, module, name, 15, call=3)
            with pytest.raises(KeyboardInterrupt, match=told) as error:
                pretrain("stopped", resume=True)
        assert error.value.exit_code == 143
    saved = {path.split("/")[1] for path in tree(tmp_path / "stopped" / "checkpoints") if "/" in path}
    assert {"state.json"} < saved and (tmp_path / "stopped" / "checkpoints" / "codec" / "step-6").is_dir()
    with monkeypatch.context() as patch:
        interrupt(patch, vq_training, "decibels", 9)  # would kill: the tokenizer is not trained again
        stopped = pretrain("stopped", resume=True)
    for weights in whole.rglob("*.safetensors"):
        assert (stopped / weights.relative_to(whole)).read_bytes() == weights.read_bytes()
    assert (stopped / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
