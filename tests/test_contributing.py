"""CONTRIBUTING tells the truth: each change is made in a copy of the package, in the files it names, and works.

Alone: pytest tests/test_contributing.py
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hypergen

PACKAGE = Path(hypergen.__file__).parent
PROJECT = PACKAGE.parent
GUIDE = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_FILES = 3
PREAMBLE = "import torch, hypergen, pathlib, sys\nassert hypergen.__file__.startswith(sys.argv[1])\n"

FILTER = {
    "decoding/sampling.py": [
        ("    min_p: float | None = None\n", "    min_p: float | None = None\n    top_sigma: float | None = None\n"),
        (
            "    min_p: float | None = None,\n) -> tuple[Tensor, Tensor]:\n",
            "    min_p: float | None = None,\n    top_sigma: float | None = None,\n) -> tuple[Tensor, Tensor]:\n",
        ),
        ("TORCH_ONLY: frozenset[str] = frozenset()", 'TORCH_ONLY: frozenset[str] = frozenset({"top_sigma"})'),
        (
            "    if filters.keep_everything:\n",
            "    if top_sigma:\n"
            "        lowest = logits.amax(-1, keepdim=True) - top_sigma * logits.std(-1, keepdim=True)\n"
            "        logits = logits.masked_fill(logits < lowest, -torch.inf)\n"
            "    if filters.keep_everything:\n",
        ),
    ],
    "config.py": [
        ('"min-p", "fsd", "beam"]', '"min-p", "fsd", "beam", "top-sigma"]'),
        ('"top-p", "min-p")\n', '"top-p", "min-p", "top-sigma")\n'),
        ('    "min_p": SAMPLING,\n', '    "min_p": SAMPLING,\n    "top_sigma": SAMPLING,\n'),
        (
            "    fsd_alpha: float | None = None\n",
            '    top_sigma: float | None = None\n    """Width."""\n    fsd_alpha: float | None = None\n',
        ),
    ],
    "decoding/strategies.py": [
        ('    "fsd": Strategy(', '    "top-sigma": Strategy(filters=Filters(top_sigma=1.0)),\n    "fsd": Strategy('),
    ],
}
FILTER_WORKS = """
from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from tests.toy.adapter import toy
model, prompts = toy().model, torch.tensor([[16, 1, 2], [16, 3, 4]])
narrow = generate(model, prompts, 8, DecodingConfig(strategy="top-sigma", top_sigma=1e-6, stop_at_end=False))
greedy = generate(model, prompts, 8, DecodingConfig(stop_at_end=False))
wide = generate(model, prompts, 8, DecodingConfig(strategy="top-sigma", top_sigma=50.0, stop_at_end=False))
assert narrow.equal(greedy) and not wide.equal(greedy)
"""

SEARCH = {
    "config.py": [('"min-p", "fsd", "beam"]', '"min-p", "fsd", "beam", "last-token"]')],
    "decoding/echo.py": '''"""Repeat the prompt's last token: the simplest search there is."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def decode_echo(decoder: Any, prompts: Tensor, max_new_tokens: int, **_: Any) -> Tensor:
    """Decode prompts (B, P): -> (B, S)."""
    return prompts[:, -1:].expand(-1, max_new_tokens)
''',
    "decoding/strategies.py": [
        (
            "from hypergen.decoding import fsd\n",
            "from hypergen.decoding import fsd\nfrom hypergen.decoding.echo import decode_echo\n",
        ),
        (
            '    "fsd": Strategy(',
            '    "last-token": Strategy(search=decode_echo, allows_padding=False),\n    "fsd": Strategy(',
        ),
    ],
}
SEARCH_WORKS = """
from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from tests.toy.adapter import toy
ids = generate(toy().model, torch.tensor([[16, 1, 2], [16, 3, 4]]), 3, DecodingConfig(strategy="last-token"))
assert ids.tolist() == [[2, 2, 2], [4, 4, 4]]
"""

TRACKER = {
    "config.py": [
        (
            '    """Continue the newest valid checkpoint of --output, or start when there is none."""\n',
            '    """Continue the newest valid checkpoint of --output, or start when there is none."""\n'
            '    report_to: str | None = None\n    """File that gets the losses."""\n',
        )
    ],
    "trackers/__init__.py": "",
    "trackers/text_file.py": '''"""Report each epoch's loss to a text file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TextFile:
    """Append a line an epoch."""

    path: str

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        with Path(self.path).open("a") as file:
            file.write(f"{epoch} {metrics['loss']:.3f}\\n")
''',
    "api.py": [
        (
            "from hypergen.training.plan import FitResult, Plan\n",
            "from hypergen.trackers.text_file import TextFile\nfrom hypergen.training.plan import FitResult, Plan\n",
        ),
        (
            "            trackers=_trackers(on_epoch),\n",
            "            trackers=() if resolved.report_to is None else (TextFile(resolved.report_to),),\n",
        ),
    ],
}
TRACKER_WORKS = """
from hypergen import registry
from tests.toy.adapter import toy
registry.MODALITIES["toy"] = "tests.toy"
base = pathlib.Path(sys.argv[2]) / "base"
toy().save(base)
options = {"num_samples": 16, "epochs": 3, "batch_size": 8, "held_out_samples": 4, "device": "cpu", "data": "numbers"}
log = base.with_name("losses.txt")
run = hypergen.fit(modality="toy", model=str(base), output=str(base.with_name("run")), report_to=str(log), **options)
assert [line.split()[0] for line in log.read_text().splitlines()] == ["1", "2", "3"]
"""

METRIC = {
    "evaluation/diversity.py": [
        (
            "\n\ndef distinct(",
            '''

def first_token_values(completions: Completions) -> Tensor:
    """Compute the share of tokens that equal the first one, (B,)."""
    return torch.stack([(row == row[0]).double().mean() for row in completions])


def distinct(''',
        ),
    ],
    "evaluation/comparison.py": [
        ("diversity import distinct, ", "diversity import distinct, first_token_values, "),
        (
            '            "ttr": ttr_values(completions),\n',
            '            "ttr": ttr_values(completions),\n            "first_token": first_token_values(completions),\n',
        ),
    ],
    "report/columns.py": [
        (
            "DIVERSITY_METRICS: Metrics = {\n",
            'DIVERSITY_METRICS: Metrics = {\n    "first_token": Metric(head="first token", meaning="share of tokens equal to the first"),\n',
        ),
    ],
}
METRIC_WORKS = """
from hypergen.config import DecodingConfig
from hypergen.evaluation.comparison import Comparison
from hypergen.report.columns import Columns
from hypergen.report.markdown import markdown
from tests.toy.adapter import numbers, toy
from tests.toy.config import Settings
tokens = toy().encode(numbers(12, Settings()))
compare = Comparison(toy(), tokens[:8], tokens[8:], num_new=8, seed=0)
compare.add("base greedy", DecodingConfig(stop_at_end=False))
assert 0 < compare.records[0]["values"]["first_token"]["mean"] <= 1
assert "first token" in markdown(compare.records, Columns.of())
"""

TOKENIZER = {
    "image/config.py": [('CodecName = Literal["vq", "colors"]', 'CodecName = Literal["vq", "colors", "grey"]')],
    "image/grey_tokenizer.py": '''"""Tokenize pictures as 16 levels of grey, one code a pixel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hypergen.image.pixels import BILINEAR, to_pictures, to_pixels

FILE = "grey.json"


class GreyTokenizer:
    """Convert pictures to levels of grey and back."""

    num_codes, stride, resampling = 16, 1, BILINEAR

    def __init__(self, image_size: int):
        self.image_size, self.grid = image_size, (image_size, image_size)

    def encode(self, pictures: Sequence[Image.Image], device: Any = "cpu", *, advance: Any = None) -> Tensor:
        """Encode."""
        return to_pixels(pictures, self.image_size).float().mean(1).flatten(1).div(16).long()

    def decode(self, codes: Tensor, device: Any = "cpu", *, advance: Any = None) -> list[Image.Image]:
        """Decode."""
        levels = (codes.cpu() * 17).to(torch.uint8).unflatten(1, self.grid)
        return to_pictures(levels[:, None].expand(-1, 3, -1, -1))

    def save(self, folder: Path, dtype: Any = None) -> None:
        """Save."""
        (folder / FILE).write_text(json.dumps({"image_size": self.image_size}))
''',
    "image/tokenizer.py": [
        (
            "from hypergen.image.config import Settings\n",
            "from hypergen.image.config import Settings\nfrom hypergen.image import grey_tokenizer\n",
        ),
        (
            '    if settings.codec == "colors":\n',
            '    if settings.codec == "grey":\n        return grey_tokenizer.GreyTokenizer(size)\n    if settings.codec == "colors":\n',
        ),
        (
            "    for place in (folder / vq_tokenizer.SUBFOLDER, folder):\n",
            "    if (folder / grey_tokenizer.FILE).is_file():\n        return grey_tokenizer.GreyTokenizer(read_object(folder / grey_tokenizer.FILE)['image_size'])\n    for place in (folder / vq_tokenizer.SUBFOLDER, folder):\n",
        ),
        (
            "from hypergen.storage.run_record import tensor_sha256\n",
            "from hypergen.storage.run_record import tensor_sha256\nfrom hypergen.storage.strict_json import read_object\n",
        ),
    ],
}
TOKENIZER_WORKS = """
from tests.image.tiny import pictures
folder = pathlib.Path(sys.argv[2]) / "pictures"
folder.mkdir()
for number, picture in enumerate(pictures(6, 8)):
    picture.save(folder / f"{number}.png")
options = {"width": 16, "num_layers": 1, "num_heads": 2, "steps": 2, "batch_size": 2, "device": "cpu", "image_size": 8}
base = str(folder.with_name("base"))
hypergen.pretrain(modality="image", data=str(folder), output=base, codec="grey", **options)
grid = hypergen.load(base).generate(pictures(2, 8))
assert [picture.size for picture in grid] == [(8, 8)] * 2 and grid[0].getpixel((0, 0))[0] % 17 == 0
"""

CHANGES = {
    "a sampling filter": (FILTER, FILTER_WORKS),
    "a search or a rule": (SEARCH, SEARCH_WORKS),
    "a tracker": (TRACKER, TRACKER_WORKS),
    "a metric on ids": (METRIC, METRIC_WORKS),
    "an image tokenizer": (TOKENIZER, TOKENIZER_WORKS),
}


def named_files(change):
    """The files that the guide names for a change, `NAME` standing for any new one."""
    (row,) = [line for line in GUIDE.splitlines() if line.startswith(f"| {change}")]
    return re.findall(r"`hypergen/([\w./]+\.py)`", row)


@pytest.mark.parametrize("change", CHANGES)
def test_the_guide_names_the_files_and_no_more_than_three(change):
    edits, _ = CHANGES[change]
    touched = {path for path in edits if not path.endswith("__init__.py")}
    named = set(named_files(change))
    assert len(named) <= MOST_FILES and len(touched) <= MOST_FILES
    new = {path for path in touched if not (PACKAGE / path).exists()}
    assert touched - new == {path for path in named if "NAME" not in path}
    assert {path.rsplit("/", 1)[0] for path in new} == {path.rsplit("/", 1)[0] for path in named if "NAME" in path}


@pytest.mark.parametrize("change", CHANGES)
def test_the_change_works(change, tmp_path):
    edits, program = CHANGES[change]
    copy = tmp_path / "copy" / "hypergen"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name, edit in edits.items():
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(edit, str):
            path.write_text(edit)
            continue
        text = path.read_text()
        for old, new in edit:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        path.write_text(text)
    command = [sys.executable, "-c", PREAMBLE + program, str(tmp_path / "copy"), str(tmp_path)]
    environment = {
        "PYTHONPATH": f"{tmp_path / 'copy'}:{PROJECT}",
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
