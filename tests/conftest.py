"""What the tests of the verbs share: the toy modality registered, and small bases in folders."""

import json
import re

import pytest

from hypergen import registry
from hypergen.cli import main as cli
from hypergen.runtime import progress
from tests.toy.adapter import toy

QUICK = {"num_samples": 24, "epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "target_loss": 0.0}
FIT = ["--device", "cpu", "--sequence-length", "16", "--prompt-length", "4", "--num-samples", "8", "--epochs", "1"]
QUICK_TOY = {**QUICK, "data": "numbers", "held_out_samples": 8, "device": "cpu"}


def unless(typed, pairs):
    """Options with one value each, without those that are typed: an option is given once."""
    return [one for pair in zip(pairs[::2], pairs[1::2], strict=True) if pair[0] not in typed for one in pair]


@pytest.fixture(scope="session")
def registered():
    """The third modality, by one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.MODALITIES, "toy", "tests.toy")
        yield


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory, registered):
    """An untrained toy in a folder that tells its modality."""
    folder = tmp_path_factory.mktemp("bases") / "toy"
    toy().save(folder)
    (folder / "hypergen.json").write_text(json.dumps({"modality": "toy"}))
    return str(folder)


@pytest.fixture(scope="session")
def text_base(tmp_path_factory):
    """A random Llama of 4 blocks and its tokenizer in the layout of `save_pretrained`."""
    from tests.text import tiny

    folder = tmp_path_factory.mktemp("bases") / "text"
    tiny.modality().save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def text_data(tmp_path_factory):
    """48 short texts that differ, one a row."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"text": f"The ferryman rowed {n} times across the river and {n * 7} times back again."} for n in range(48)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "texts.jsonl")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and a working folder of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command that must be refused; gives its one line."""

    def run(*arguments):
        before = tree(tmp_path)
        assert cli.main(list(arguments)) == 2
        shown = capsys.readouterr()
        lines = [line for line in shown.err.splitlines() if line.startswith("hypergen: ")]
        assert shown.out == "" and len(lines) == 1 and "Traceback" not in shown.err
        assert tree(tmp_path) == before
        return lines[0]

    return run


@pytest.fixture
def refused_fit(refused, text_base, text_data, monkeypatch):
    """The line that refuses a fit of a text base which would work but for these arguments."""

    def load(**_):
        raise AssertionError("a model was loaded")

    def run(*arguments, model=text_base, data=text_data, model_needed=False):
        with monkeypatch.context() as patch:
            if not model_needed:
                patch.setattr("hypergen.text.adapter.load", load)
            return refused("fit", *unless(arguments, ["--model", model, "--data", data, *FIT]), *arguments)

    return run


@pytest.fixture
def phases(monkeypatch, capsys):
    """Makes every progress print each of its lines; gives the newest count of each label since, in order."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)

    def shown():
        lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" s left")]
        return dict(re.match(r"(.*): (\d+/\d+)  ", line).groups() for line in lines)

    return shown


def tree(folder):
    """Every path below a folder, with the content of files."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}
