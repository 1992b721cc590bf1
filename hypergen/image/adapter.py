"""Adapt pictures to the core: a picture tokenizer and a transformer over its codes, behind `hypergen.modality`.

A picture is the start token and then its h * w codes, row by row; the prompt is the start token and the upper rows.

Shape letters: N pictures, M originals, B batch, T tokens (h * w + 1), P prompt, S completion, h w code grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from PIL import Image, ImageOps
from torch import Tensor

from hypergen.config import FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.image import metrics, sources
from hypergen.image.checkpoint import load_transformer, read_config, save_transformer
from hypergen.image.config import Settings
from hypergen.image.distribution_metrics import PICTURE_METRICS, TORCHMETRICS
from hypergen.image.locate import locate
from hypergen.image.metrics import CODE_METRICS
from hypergen.image.picture_grid import PictureFigure, draw_picture_grid
from hypergen.image.pixels import chunks, square
from hypergen.image.reference_metrics import ImageReferenceMetrics
from hypergen.image.rgb import to_rgb
from hypergen.image.tokenizer import Codec, load_codec, new_codec
from hypergen.image.transformer import ImageTransformer, TransformerConfig, new_transformer
from hypergen.modality import CodecCheckpoints, Encoded, ExportWriter, Metric, TokenModel
from hypergen.runtime.progress import track

METRICS: dict[str, Metric] = {**CODE_METRICS, **PICTURE_METRICS}
OPTIONAL_DEPENDENCIES = {"torchmetrics": TORCHMETRICS, "datasets": "datasets>=4"}
LIBRARIES = ("diffusers",)
DEFAULT_PROMPTS: str | None = None  # pictures to start from are sampled from the base, as its training set is
FIGURE_SUFFIX = ".png"
PIPELINE_TAG: str | None = "unconditional-image-generation"
LIBRARY_NAME = "hypergen"
LOADING = """\
import hypergen
from PIL import Image

run = hypergen.load(".", modality="image")  # this folder, or its id on the hub
completed = run.generate(Image.open("picture.png"))  # keeps the upper rows, completes the others greedily
completed[0].save("completed.png")
"""
EXPORT_WRITERS: dict[str, ExportWriter] = {}
CHUNK = 256  # pictures held in memory at once
MISSING = (128, 128, 128)  # colour where there are no codes


def read(*, source: str, settings: Settings, skip_bad: int) -> sources.Pictures:
    """Open a source of pictures, each read when it is needed.

    Args:
        source: a folder, zip or picture file, `cifar10` or `hub:ID`.
        settings: of pictures; they do not matter here.
        skip_bad: bad pictures to skip, at most; above 0 all are read once now.

    Raises:
        InputError: no such source, no picture in it, or more bad ones.
    """
    return sources.read(source, skip_bad)


def read_rows(*, rows: Sequence[Any], source: str, settings: Settings, skip_bad: int) -> sources.Pictures:
    """Take PIL pictures, or the first picture of each row of a table.

    Args:
        rows: at least one; a table's are read when they are needed.
        source: what they are, for messages.
        settings: of pictures; they do not matter here.
        skip_bad: bad pictures to skip, at most; above 0 all are read once now.

    Raises:
        InputError: the first row has no picture, or more are bad.
    """
    return sources.read_rows(rows, source, skip_bad)


def cut(*, item: Image.Image, count: int, settings: Settings) -> None:
    """Leave a picture whole: a part of it is no held-out picture."""


def prepare_fit(*, settings: Settings, config: FitConfig) -> Settings:
    """Return the settings as they are: none depends on a fit."""
    return settings


def build(
    *, items: Sequence[Image.Image], settings: Settings, config: PretrainConfig, checkpoints: CodecCheckpoints
) -> ImageModality:
    """Make a fresh base: a codec trained on the items (or that of `config.codec_from`) and an untrained transformer.

    Args:
        items: pictures of any size.
        settings: codec and picture size.
        config: sizes, seed and device.
        checkpoints: where the codec's training is saved, and continued from.

    Raises:
        InputError: sizes that do not fit, or pictures or folders that cannot be read.
    """
    codec = new_codec(items, settings, config, checkpoints)
    shape = TransformerConfig(
        num_codes=codec.num_codes,
        num_positions=codec.grid[0] * codec.grid[1],
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
    )
    return ImageModality(new_transformer(shape, config.seed), codec, settings)


def card(*, source: str) -> Mapping[str, Any]:
    """Return no card: no image base has a name of its own.

    Args:
        source: the name.
    """
    return {}


def wrap(*, model: object, tokenizer: object, settings: Settings) -> ImageModality:
    """Refuse a model that is an object: a picture model is a transformer and its codec, which a folder holds.

    Args:
        model: of any kind.
        tokenizer: of any kind.
        settings: the adapter's own.

    Raises:
        InputError: always.
    """
    kind = type(model).__name__
    raise InputError(f"--model: is of type {kind}; a picture model is named by its folder or hub id, or is a Run")


def load(*, source: str, settings: Settings, allow_pickle_weights: bool) -> ImageModality:
    """Load a base or run: a folder in ImageGPT's layout with `codec/` or a palette, or a hub id.

    Args:
        source: the folder or id.
        settings: an open `image_size` takes the codec's.
        allow_pickle_weights: read pickled weights (.bin) where no others are.

    Raises:
        InputError: it is not there, incomplete, of another architecture, or does not fit the settings.
    """
    path = locate(source, allow_pickle_weights)
    shape, codec = read_config(path), load_codec(path)
    if settings.image_size not in (None, codec.image_size):
        raise InputError(f"--image-size {settings.image_size}: the pictures of {source} are {codec.image_size} wide")
    found, needed = (shape.num_codes, shape.num_positions), (codec.num_codes, codec.grid[0] * codec.grid[1])
    if found != needed:
        raise InputError(f"{source}: the model has {found} codes and positions, its picture tokenizer {needed}")
    return ImageModality(load_transformer(path, allow_pickle_weights), codec, settings)


@final
class ImageModality:
    """Convert pictures (PIL, RGB) to ids and back, and hold the model over them; see `modality.Modality`."""

    name = "image"
    end_tokens: tuple[int, ...] = ()

    def __init__(self, model: ImageTransformer, codec: Codec, settings: Settings):
        self.model = model
        self.codec = codec
        self.settings: Settings = replace(settings, image_size=codec.image_size)
        self.height, self.width = codec.grid
        self.start_token = codec.num_codes
        self.sequence_length = self.height * self.width + 1

    @property
    def device(self) -> torch.device:
        """Device of the model, on which the codec computes as well."""
        return next(self.model.parameters()).device

    def with_settings(self, settings: Settings) -> ImageModality:
        """Combine the same codec and model with other settings."""
        return ImageModality(self.model, self.codec, settings)

    def with_model(self, model: TokenModel) -> ImageModality:
        """Combine the same codec and settings with another model."""
        assert isinstance(model, ImageTransformer)
        return ImageModality(model, self.codec, self.settings)

    def is_item(self, value: object) -> bool:
        """Tell one picture from a collection of several."""
        return isinstance(value, Image.Image)

    def encode(self, items: Sequence[Image.Image]) -> Tensor:
        """Encode all pictures: -> (N, T) int64, the start token, then the codes row by row.

        With `settings.mirror` the mirrored ones follow the others.

        Raises:
            InputError: a picture cannot be read.
        """
        return self._encode(items, range(len(items)), self.settings.mirror)

    def encode_training(self, items: Sequence[Image.Image], count: int, seed: int = 0) -> Encoded:
        """Encode `count` pictures of any size, drawn with `seed`; no others are read, and every code counts.

        Raises:
            InputError: there are fewer pictures, or one cannot be read.
        """
        if count > len(items):
            raise InputError(f"--num-samples {count}: there are only {len(items)} pictures")
        rows = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count]
        return Encoded(self._encode(items, rows.tolist(), False))

    def _encode(
        self, items: Sequence[Image.Image], rows: Sequence[int], mirror: bool, label: str = "encode pictures"
    ) -> Tensor:
        """Encode these items, a chunk at a time; the mirrored ones follow all others."""
        tokens = torch.full((len(rows) * (1 + mirror), self.sequence_length), self.start_token)
        with track(label, len(tokens), transient=True) as advance:
            for part in chunks(len(rows), CHUNK):
                pictures = [square(items[row], self.codec.image_size, self.codec.resampling) for row in rows[part]]
                tokens[part, 1:] = self.codec.encode(pictures, self.device, advance=advance)
                if mirror:
                    mirrored = [ImageOps.mirror(picture) for picture in pictures]
                    codes = self.codec.encode(mirrored, self.device, advance=advance)
                    tokens[len(rows) + part.start : len(rows) + part.stop, 1:] = codes
        return tokens

    def encode_held_out(self, items: Sequence[Image.Image], count: int, seed: int = 0) -> Encoded:
        """Encode at most `count` of the pictures, drawn with `seed`: -> (N, T).

        Raises:
            InputError: there is no picture, or one cannot be read.
        """
        if not len(items):
            raise InputError("held-out pictures: there are none")
        return self.encode_training(items, min(count, len(items)), seed)

    def add_start_tokens(self, prompt: Tensor) -> Tensor:
        """Put the start token before codes: (B, P), P >= 0 -> (B, P + 1) ids.

        Raises:
            InputError: an id is not a code, or the prompt leaves nothing to complete.
        """
        if prompt.numel() and (int(prompt.min()) < 0 or int(prompt.max()) >= self.codec.num_codes):
            wrong = int(prompt.min()) if int(prompt.min()) < 0 else int(prompt.max())
            raise InputError(f"prompt: id {wrong} is not a code; allowed are 0 to {self.codec.num_codes - 1}")
        if prompt.shape[1] + 1 >= self.sequence_length:
            most = self.sequence_length - 2
            raise InputError(f"prompt: {prompt.shape[1]} codes leave nothing to complete; at most {most} are allowed")
        return torch.cat([prompt.new_full((len(prompt), 1), self.start_token, dtype=torch.long), prompt.long()], 1)

    def encode_prompt(self, item: Image.Image, number: int | None = None) -> Tensor:
        """Encode a picture as a prompt: -> (P,), the start token and the codes of its upper rows.

        Args:
            item: a picture of any size and mode.
            number: its place among several, for messages.

        Raises:
            InputError: it is no picture, has more than 8 bits a channel, or is damaged.
        """
        which = "prompt" if number is None else f"prompt {number}"
        if not isinstance(item, Image.Image):
            raise InputError(f"{which}: is of type {type(item).__name__}; a picture (PIL) is needed")
        return self.prompts(self._encode([to_rgb(item, which)], range(1), False, label=""))[0]

    def prompts(self, tokens: Tensor) -> Tensor:
        """Cut prompts off: (N, T) -> (N, P), the start token and `prompt_fraction` of the rows, never all of them."""
        rows = min(round(self.height * self.settings.prompt_fraction), self.height - 1)
        return tokens[:, : 1 + rows * self.width]

    def max_new_tokens(self, prompt_length: int) -> int:
        """Count the codes that complete the picture."""
        return max(0, self.sequence_length - prompt_length)

    def num_compared_tokens(self, num_left: int) -> int:
        """Compare whole pictures: all that is left."""
        return num_left

    def decode(self, tokens: Tensor) -> list[Image.Image]:
        """Decode codes (N, h * w), a start token before them allowed, into pictures.

        Raises:
            InputError: another number of codes, or an id that is none.
        """
        if tokens.shape[1] and bool((tokens[:, 0] == self.start_token).all()):
            tokens = tokens[:, 1:]
        if tokens.shape[1] != self.sequence_length - 1:
            raise InputError(f"picture of {tokens.shape[1]} codes: must be {self.height} x {self.width}")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.codec.num_codes:
            raise InputError(f"picture: ids must be codes, 0 to {self.codec.num_codes - 1}")
        with track("decode pictures", len(tokens), transient=True) as advance:
            return self.codec.decode(tokens, self.device, advance=advance)

    def as_text(self, item: Image.Image) -> str | None:
        """Return None: a picture has no text."""
        return None

    def write(self, items: Sequence[Image.Image], folder: Path) -> list[Path]:
        """Write one .png file a picture, named by number."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:04d}.png" for number in range(len(items))]
        for path, item in zip(paths, items, strict=True):
            item.save(path)
        return paths

    def render(self, prompts: Sequence[Tensor], completions: Tensor) -> list[Image.Image]:
        """Decode prompts (P,) each and completions (B, S) into whole pictures, grey where a completion ends early."""
        rows = [torch.cat([prompt.cpu(), row]) for prompt, row in zip(prompts, completions.cpu(), strict=True)]
        if not rows:
            return []
        whole = torch.stack([self._fill(row) for row in rows])
        pictures = self.decode(whole)
        for picture, row in zip(pictures, rows, strict=True):
            self._cover(picture, len(row) - 1)
        return pictures

    def _fill(self, row: Tensor) -> Tensor:
        """Fill up a picture (start token, n codes) -> (T,) by repeating its last row of codes; too long stays so."""
        while len(row) < self.sequence_length:
            above = row[-self.width :] if len(row) > self.width else row.new_zeros(self.width)
            row = torch.cat([row, above])[: self.sequence_length]
        return row

    def _cover(self, picture: Image.Image, num_codes: int) -> None:
        """Paint grey, in place, all that lies after the first `num_codes` codes."""
        side, (row, column) = self.codec.image_size // self.height, divmod(num_codes, self.width)
        if column:
            picture.paste(MISSING, (column * side, row * side, picture.width, (row + 1) * side))
            row += 1
        if row < self.height:
            picture.paste(MISSING, (0, row * side, *picture.size))

    def comparison_figure(
        self,
        prompts: Sequence[Tensor],
        columns: Mapping[str, Tensor],
        recited: Mapping[str, Collection[int]] | None = None,
    ) -> PictureFigure:
        """Draw N prompts (P,) and completions (N, S) by title as one picture, a row an example, the prompt first.

        Those that are recited have a frame.
        """
        rows = list(prompts)
        nothing = torch.empty(len(rows), 0, dtype=torch.long)
        pictures = {title: self.render(rows, part) for title, part in {"prompt": nothing, **columns}.items()}
        return PictureFigure(draw_picture_grid(pictures, framed=recited))

    def metrics(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute copies and repetition on the grid of codes, and the use of the codebook; see `image.metrics`."""
        return {
            **metrics.copying(prompts, completions, self.width),
            **metrics.patch_repetition(prompts, completions, self.width),
            **metrics.runs(completions),
            **metrics.code_use(completions, self.codec.num_codes),
        }

    def reference_metrics(self, training: Tensor, originals: Tensor) -> ImageReferenceMetrics:
        """Prepare distances to training pictures (N, T) and originals (M, T), all as the codec renders them."""
        return ImageReferenceMetrics(self.render, training, originals, self.width)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the transformer as transformers reads an ImageGPT, and the codec beside it."""
        save_transformer(self.model, folder, dtype)
        self.codec.save(folder, dtype)


if TYPE_CHECKING:  # both sides of the contract, for mypy
    from hypergen.modality import Modality

    _modality: type[Modality] = ImageModality
    _model: type[TokenModel] = ImageTransformer
