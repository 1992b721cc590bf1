"""The toy adapter: lists of ints <-> tokens, and `ToyModel`. Number k is id k, then come the start and the end token.

Does not know: text or pictures. Short items are filled up with the end token, long ones are cut.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypergen.config import FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.modality import CodecCheckpoints, Encoded, Metric, Modality, TokenModel
from tests.toy.config import NAMED_BASES, Settings
from tests.toy.model import ToyModel

Numbers = list[int]
BUILT_IN = "numbers"  # the name of a built-in source
NUM_BUILT_IN = 256
METRICS = {
    "steady": Metric(head="steady", meaning="share of completed tokens that keep the step of the two before them"),
    "total": Metric(head="total", meaning="sum of all completed ids together", is_count=True),
    "nearest": Metric(head="nearest", meaning="distance of the sum of ids to the nearest original's"),
}
OPTIONAL_DEPENDENCIES: dict[str, str] = {}
LIBRARIES: tuple[str, ...] = ()
DEFAULT_PROMPTS: str | None = BUILT_IN
FIGURE_SUFFIX = ".html"
PIPELINE_TAG: str | None = None
LIBRARY_NAME = "hypergen"
LOADING = "import hypergen\n\nprint(hypergen.load('.').generate([[1, 2, 3]]))\n"


@final
class ToyFigure:
    """An HTML table."""

    def __init__(self, content: str):
        self.content = content

    def html(self) -> str:
        return self.content

    def save(self, folder: Path) -> list[Path]:
        return []


@final
class ToyReferenceMetrics:
    """`total`, of all completed ids together, as a number of the whole set; `nearest` of the originals by their sum."""

    def __init__(self, originals: Tensor):
        self.sums = originals.sum(1).double()

    def compute(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        sums = torch.cat([prompts, completions], 1).sum(1).double()
        return {"total": completions.sum().double(), "nearest": (sums[:, None] - self.sums).abs().amin(1)}

    def describe(self, num_completions: int) -> dict[str, str]:
        return {"total": f"sum over {num_completions} rows", "nearest": f"among {len(self.sums)} originals"}


@final
class ToyModality:
    name = "toy"

    def __init__(self, model: ToyModel, settings: Settings, shape: dict[str, int]):
        self.model, self.settings, self.shape = model, settings, shape
        self.start_token = settings.modulus
        self.end_tokens: tuple[int, ...] = (settings.modulus + 1,)
        self.sequence_length = settings.sequence_length

    def is_item(self, value: object) -> bool:
        return isinstance(value, list) and all(isinstance(number, int) for number in value)

    def encode(self, items: Sequence[Numbers]) -> Tensor:
        length = self.settings.sequence_length
        rows = [([self.start_token, *item] + [self.start_token + 1] * length)[:length] for item in items]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), length)

    def encode_training(self, items: Sequence[Numbers], count: int, seed: int = 0) -> Encoded:
        if count > len(items):
            raise InputError(f"{count} sequences asked for: there are {len(items)}")
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count]
        items = [items[index] for index in chosen.tolist()]
        return Encoded(self.encode(items), self._loss_mask(items) if self.settings.masked else None)

    def encode_held_out(self, items: Sequence[Numbers], count: int, seed: int = 0) -> Encoded:
        return self.encode_training(items, min(count, len(items)), seed)

    def _loss_mask(self, items: Sequence[Numbers]) -> Tensor:
        """The second half of each item (N, T), behind the start token."""
        places = torch.arange(self.settings.sequence_length)
        lengths = torch.tensor([[len(item)] for item in items])
        return (places > lengths // 2) & (places <= lengths)

    def encode_prompt(self, item: Numbers, number: int | None = None) -> Tensor:
        return self.add_start_tokens(torch.tensor([item], dtype=torch.long))[0]

    def add_start_tokens(self, prompt: Tensor) -> Tensor:
        return torch.cat([prompt.new_full((len(prompt), 1), self.start_token), prompt], 1)

    def prompts(self, tokens: Tensor) -> Tensor:
        return tokens[:, : self.settings.prompt_length]

    def max_new_tokens(self, prompt_length: int) -> int:
        return self.settings.sequence_length - prompt_length

    def num_compared_tokens(self, num_left: int) -> int:
        return num_left

    def as_text(self, item: Numbers) -> str | None:
        return None

    def decode(self, tokens: Tensor) -> list[Numbers]:
        return [self._numbers(row) for row in tokens.tolist()]

    def _numbers(self, row: Numbers) -> Numbers:
        row = row[: row.index(self.start_token + 1)] if self.start_token + 1 in row else row
        return [token for token in row if token != self.start_token]

    def write(self, items: Sequence[Numbers], folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{index:04d}.json" for index in range(len(items))]
        for path, item in zip(paths, items, strict=True):
            path.write_text(json.dumps(item))
        return paths

    def render(self, prompts: Sequence[Tensor], completions: Tensor) -> list[Numbers]:
        return self.decode(completions)

    def with_settings(self, settings: Settings) -> ToyModality:
        return ToyModality(self.model, settings, self.shape)

    def with_model(self, model: TokenModel) -> ToyModality:
        assert isinstance(model, ToyModel)
        return ToyModality(model, self.settings, self.shape)

    def comparison_figure(
        self,
        prompts: Sequence[Tensor],
        columns: Mapping[str, Tensor],
        recited: Mapping[str, Collection[int]] | None = None,
    ) -> ToyFigure:
        """An HTML table, one column a title; what is recited is bold."""
        bold = recited or {}
        shown = {"prompt": [self.decode(prompt[None])[0] for prompt in prompts]}
        shown |= {title: self.decode(tokens) for title, tokens in columns.items()}
        titles = "".join(f"<th>{escape(title)}</th>" for title in shown)
        cells = [
            [self._cell(item, row in bold.get(title, ())) for row, item in enumerate(items)]
            for title, items in shown.items()
        ]
        lines = [f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True)]
        return ToyFigure(f"<table><tr>{titles}</tr>{''.join(lines)}</table>")

    def _cell(self, item: Numbers, is_bold: bool) -> str:
        text = " ".join(map(str, item))
        return f"<td><b>{text}</b></td>" if is_bold else f"<td>{text}</td>"

    def metrics(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """`steady` (B,): share (0 to 1) of the completed tokens that keep the step of the two tokens before them."""
        tokens = torch.cat([prompts, completions], 1)[:, -completions.shape[1] - 2 :]
        steps = tokens.diff() % self.settings.modulus
        return {"steady": (steps[:, 1:] == steps[:, :-1]).double().mean(1)}

    def reference_metrics(self, training: Tensor, originals: Tensor) -> ToyReferenceMetrics:
        return ToyReferenceMetrics(originals)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "toy.json").write_text(json.dumps({"settings": asdict(self.settings), "shape": self.shape}))


def read_rows(*, rows: Sequence[Any], source: str, settings: Settings, skip_bad: int) -> list[Numbers]:
    """Lists of ints, or rows of a table with a column `numbers`."""
    items = [list(row["numbers"]) if isinstance(row, Mapping) and "numbers" in row else row for row in rows]
    if wrong := [type(item).__name__ for item in items if not isinstance(item, list)]:
        raise InputError(f"{source}: holds a {wrong[0]}; allowed are lists of numbers")
    return items


def cut(*, item: Numbers, count: int, settings: Settings) -> tuple[Numbers, Numbers] | None:
    size = min(len(item) // 4, count * settings.sequence_length)
    return (item[:-size], item[-size:]) if size else None


def prepare_fit(*, settings: Settings, config: FitConfig) -> Settings:
    """Nothing depends on the fit."""
    return settings


def build(
    *, items: Sequence[Numbers], settings: Settings, config: PretrainConfig, checkpoints: CodecCheckpoints
) -> ToyModality:
    """A new base with the width, depth and seed of a PretrainConfig; there is no codec to train on the items."""
    names = ("seed", "width", "num_layers", "num_heads")
    return toy(settings, **{name: getattr(config, name) for name in names})


def card(*, source: str) -> Mapping[str, Any]:
    """The named base has a recipe for each source."""
    return {"fit": {"self": {"epochs": 2}, "data": {"epochs": 3}}} if source in NAMED_BASES else {}


def wrap(*, model: object, tokenizer: object, settings: Settings) -> ToyModality:
    """A ToyModel; there is no tokenizer."""
    if not isinstance(model, ToyModel) or tokenizer is not None:
        raise InputError(f"model: is of type {type(model).__name__}; a ToyModel alone is needed")
    return ToyModality(model, settings, {})


def load(*, source: str, settings: Settings, allow_pickle_weights: bool) -> ToyModality:
    """The named base, or what `save` wrote. Of the settings, the caller's prompt length and mask hold."""
    if source in NAMED_BASES:
        return toy(settings)
    record = json.loads((Path(source) / "toy.json").read_text())
    given = {name: getattr(settings, name) for name in ("prompt_length", "masked")}
    saved = replace(Settings(**record["settings"]), **given)
    model = ToyModel(**record["shape"])
    model.load_state_dict(load_file(Path(source) / "model.safetensors"))
    return ToyModality(model, saved, record["shape"])


def toy(settings: Settings = Settings(), *, seed: int = 0, **shape: int) -> ToyModality:  # noqa: B008 (frozen)
    """An untrained toy in one call; `shape` may set width, num_layers and num_heads."""
    shape = {"num_tokens": settings.modulus + 2, "context_length": 4 * settings.sequence_length, **shape}
    return ToyModality(ToyModel(**shape, seed=seed), settings, shape)


def read(*, source: str, settings: Settings, skip_bad: int) -> list[Numbers]:
    """`numbers`, or a JSON Lines file with one list of ints a line."""
    if source == BUILT_IN:
        return numbers(NUM_BUILT_IN, settings)
    path = Path(source)
    if not path.is_file():
        raise InputError(f"data '{source}': must be '{BUILT_IN}' or a .jsonl file")
    items = [json.loads(line) for line in path.read_text().splitlines() if line]
    if any(not 0 <= number < settings.modulus for item in items for number in item):
        raise InputError(f"{source}: numbers must be between 0 and {settings.modulus - 1}")
    return items


def numbers(count: int, settings: Settings, seed: int = 0) -> list[Numbers]:
    """Counting on by a random step from a random start, modulo `settings.modulus`; some stop early."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(settings.modulus, (count, 2), generator=generator).tolist()
    lengths = torch.randint(settings.sequence_length - 4, settings.sequence_length, (count,), generator=generator)
    return [
        [(first + step * place) % settings.modulus for place in range(length)]
        for (first, step), length in zip(draws, lengths.tolist(), strict=True)
    ]


def _write_sizes(modality: Modality, file: Path, *, type: str, title: str) -> None:
    """Its title, type and weights: how many values each has, or their sum."""
    weights = {
        name: weight.numel() if type == "count" else weight.sum().item()
        for name, weight in modality.model.named_parameters()
    }
    file.write_text(json.dumps({"title": title, "type": type, "weights": weights}))


EXPORT_WRITERS = {"sizes": _write_sizes}


if TYPE_CHECKING:
    _modality: type[Modality] = ToyModality
