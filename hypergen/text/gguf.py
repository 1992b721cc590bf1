"""Read a GGUF file, llama.cpp's format: check it, and let transformers unpack configuration, tokenizer and weights.

What transformers leaves out of a file it leaves out silently, and what it loads it calls quantized and refuses to save.
So the rotary scaling is read or refused here, and the model leaves as one whose weights were always fp32.
"""

from __future__ import annotations

import importlib
import math
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hypergen.errors import InputError
from hypergen.runtime.console import warn
from hypergen.runtime.dependencies import load_optional
from hypergen.text.config import MODEL_SUFFIXES

REQUIREMENT = "gguf>=0.10"
MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 counted in 32 bits, and no file of it is left
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
FLOAT32 = 0  # the type of a weight that is not quantized
MOST_DIMENSIONS = 8
END_TOKENS = ("eos", "eot", "eom")  # of a text, of a turn, of a message: llama.cpp stops at each
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")  # values of tokenizer.ggml.pre
ROTARY_FACTORS = "rope_freqs.weight"
LONG_FACTORS = "rope_factors_long.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LAYERS_OF_27B = 62  # by which llama.cpp knows this size of Gemma 3


@dataclass(frozen=True)
class Place:
    """Say where a weight lies in the file."""

    shape: tuple[int, ...]
    type: int
    """Number of the type in ggml: 0 fp32, 2 Q4_0, ..."""
    offset: int
    """Bytes from the beginning of the file."""


@dataclass(frozen=True)
class Header:
    """Hold what a file says of itself, weights and lists excepted."""

    path: Path
    values: dict[str, Any]
    places: dict[str, Place]

    @property
    def architecture(self) -> str:
        """llama.cpp's name for it."""
        return str(self.values.get("general.architecture"))

    def value(self, name: str) -> Any:
        """Look up a value of the architecture; None where there is none."""
        return self.values.get(f"{self.architecture}.{name}")

    @property
    def num_values(self) -> int:
        """How many numbers all weights together have, rotary factors excepted."""
        return sum(math.prod(place.shape) for name, place in self.places.items() if name != ROTARY_FACTORS)


def is_gguf(path: str | Path) -> bool:
    """Tell a GGUF file from any other source, by its suffix."""
    return Path(path).suffix.lower() in MODEL_SUFFIXES and Path(path).is_file()


def read_header(path: Path) -> Header:
    """Read and check the header, and that the file is as long as it says.

    Raises:
        InputError: it is no GGUF file, of another version, cut off, damaged or one of several parts, or `gguf` is
            missing.
    """
    try:
        with path.open("rb") as file:
            header = _Parser(path, file).header()
        num_parts = int(header.values.get("split.count", 1))
    except InputError:  # which is a ValueError
        raise
    except (EOFError, MemoryError, ArithmeticError, TypeError, ValueError, struct.error):
        raise InputError(f"{path}: its header is cut off or damaged; fetch the file again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if num_parts > 1:
        raise InputError(f"{path}: is one of {num_parts} parts; join them with llama-gguf-split --merge")
    _check_length(header)
    return header


def _check_length(header: Header) -> None:
    """Require that the file holds every weight that its header lists."""
    library = load_optional("gguf", REQUIREMENT, str(header.path))
    sizes = {int(kind): size for kind, size in library.GGML_QUANT_SIZES.items()}
    length = header.path.stat().st_size
    for name, place in header.places.items():
        if place.type not in sizes:
            raise InputError(f"{header.path}: weight {name} is of type {place.type}, which gguf does not know")
        values_in_block, bytes_in_block = sizes[place.type]
        end = place.offset + math.prod(place.shape) // values_in_block * bytes_in_block
        if end > length:
            raise InputError(f"{header.path}: is cut off: {name} ends at byte {end:,}, the file at {length:,}")


class _Parser:
    """Parse a header, never past the end of the file, so that no number in it can ask for more than is there."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path, self.file = path, file
        self.left = path.stat().st_size

    def header(self) -> Header:
        if self.left < len(MAGIC) or self.take(len(MAGIC)) != MAGIC:
            raise InputError(f"{self.path}: is no GGUF file (it does not begin with {MAGIC.decode()})")
        version = self.number("<I")
        if version not in VERSIONS:
            allowed = " and ".join(map(str, VERSIONS))
            raise InputError(f"{self.path}: is GGUF version {version}; versions {allowed} are read")
        num_places, num_values = self.number("<Q"), self.number("<Q")
        values = {self.text(): self.value(self.number("<I")) for _ in range(num_values)}
        listed = [self.place() for _ in range(num_places)]
        alignment = values.get("general.alignment", 32)
        start = -(-self.file.tell() // alignment) * alignment
        places = {name: Place(shape, kind, start + offset) for name, shape, kind, offset in listed}
        return Header(self.path, values, places)

    def place(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise EOFError
        return name, tuple(self.number("<Q") for _ in range(dimensions)), self.number("<I"), self.number("<Q")

    def value(self, kind: int) -> Any:
        """Read a value; an array is passed over and gives its length."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise EOFError
        inner, count = self.number("<I"), self.number("<Q")
        if inner in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[inner]))
        elif inner == STRING:
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            raise EOFError  # arrays in arrays: no file has them
        return count

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def take(self, count: int) -> bytes:
        self._count(count)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        self._count(count)
        self.file.seek(count, 1)

    def _count(self, count: int) -> None:
        if count > self.left:
            raise EOFError
        self.left -= count


@contextmanager
def whereabouts(name: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments by which `from_pretrained` finds a folder, a hub id or a GGUF file.

    The folder of a file is an empty one, so that a tokenizer or an adapter that happens to lie beside it is not taken.
    """
    if not is_gguf(name):
        yield {"pretrained_model_name_or_path": name}
        return
    with tempfile.TemporaryDirectory() as empty, _bar_on_terminals():
        yield {"pretrained_model_name_or_path": empty, "gguf_file": str(Path(name).resolve())}


@contextmanager
def _bar_on_terminals() -> Iterator[None]:
    """Show transformers' progress bar where standard error is a terminal, and nowhere else."""
    module = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(module, "tqdm", None)
    if bar is None:
        yield
        return
    module.tqdm = partial(bar, disable=None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.tqdm = bar  # type: ignore[attr-defined]


def unpacking() -> dict[str, Any]:
    """Choose the arguments of `from_pretrained` that unpack all weights, also where kernels could use them packed."""
    made = getattr(importlib.import_module("transformers.utils.quantization_config"), "GgufConfig", None)
    return {} if made is None else {"quantization_config": made(dequantize=True)}


def complete_config(header: Header, config: PreTrainedConfig) -> None:
    """Add what the file says and transformers passes over.

    That is the width of a head, the scale of attention that goes with it, all end tokens and the rotary scaling.

    Raises:
        InputError: the rotary scaling is of a kind that is not read; without it, it would be another model.
    """
    width = header.value("attention.key_length")
    if width is not None and getattr(config, "head_dim", width) != width:
        config.head_dim = width
    if header.architecture == "gemma3":
        config.query_pre_attn_scalar = attention_scalar(config)
    named = [header.values.get(f"tokenizer.ggml.{name}_token_id") for name in END_TOKENS]
    ends = list(dict.fromkeys(one for one in named if one is not None))
    if len(ends) > 1 and not isinstance(config.eos_token_id, list):
        config.eos_token_id = ends
    _complete_rotary(header, config)


def _complete_rotary(header: Header, config: PreTrainedConfig) -> None:
    rotary = getattr(config, "rope_parameters", None) or {}
    rotary = rotary.get("full_attention", rotary)  # by kind of layer: those that see everything have the scaling
    if rotary.get("rope_type", "default") != "default":
        return  # transformers has read it
    kind = header.value("rope.scaling.type")
    if kind == "linear":
        rotary |= {"rope_type": kind, "factor": header.value("rope.scaling.factor")}
    elif kind not in (None, "none") or LONG_FACTORS in header.places:
        raise InputError(f"{header.path}: its rotary scaling ({kind or LONG_FACTORS}) is none that hypergen reads")
    elif ROTARY_FACTORS in header.places:
        _set_llama3_scaling(header, config)


def attention_scalar(config: PreTrainedConfig) -> int:
    """Compute the number whose root llama.cpp divides the attention scores of Gemma 3 by; no file says it."""
    is_27b = config.num_hidden_layers == LAYERS_OF_27B
    scalar: int = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
    return scalar


def llama3_factors(config: PreTrainedConfig) -> Tensor:
    """Compute by what Llama 3's scaling divides each rotary frequency: (D / 2,) for heads of width D."""
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = 2 * len(frequencies)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2) / width)
    return plain / frequencies


def _set_llama3_scaling(header: Header, config: PreTrainedConfig) -> None:
    """Set the scaling of Llama 3 that gives the file's rotary factors; nothing where all of them are 1.

    Raises:
        InputError: they come from another scaling.
    """
    factors, plain = _float32(header, ROTARY_FACTORS), config.rope_parameters
    if factors.eq(1).all():
        return
    config.rope_parameters = plain | {"rope_type": "llama3", "factor": factors.max().item(), **LLAMA3}
    expected = llama3_factors(config)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3, atol=0):
        raise InputError(f"{header.path}: its rotary factors ({ROTARY_FACTORS}) are not those of Llama 3")


def _float32(header: Header, name: str) -> Tensor:
    """Read a weight that is stored as fp32.

    Raises:
        InputError: it is stored in another way.
    """
    place = header.places[name]
    if place.type != FLOAT32:
        raise InputError(f"{header.path}: {name} is of type {place.type}; only fp32 is read")
    with header.path.open("rb") as file:
        file.seek(place.offset)
        return torch.frombuffer(bytearray(file.read(4 * math.prod(place.shape))), dtype=torch.float32)


def forget_quantization(causal: PreTrainedModel) -> None:
    """Delete the marks by which transformers takes the unpacked model for a quantized one, which it would not save."""
    for mark in ("hf_quantizer", "quantization_method", "is_quantized", "_is_quantized"):
        causal.__dict__.pop(mark, None)
    for config in (causal.config, causal.config.get_text_config(decoder=True)):
        config.__dict__.pop("quantization_config", None)


def warn_about_unused(header: Header, causal: PreTrainedModel) -> None:
    """Say it where the file has weights that the model of transformers has no place for."""
    distinct = {weight.data_ptr(): weight.numel() for weight in causal.state_dict().values()}
    left_over = header.num_values - sum(distinct.values())
    if left_over > 0:
        warn(f"{header.path}: {left_over:,} of its {header.num_values:,} values have no place in transformers' model")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a file, without the class of its architecture.

    That class would make other ids when the saved tokenizer is loaded, and to find it transformers reads the whole
    header twice. Digits stand alone where the file says so: transformers knows fewer splits of a text than llama.cpp.
    """
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    with whereabouts(name) as where:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(**where)
    backend = tokenizer.backend_tokenizer
    if read_header(Path(name)).values.get("tokenizer.ggml.pre") in DIGITS_APART:
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=tokenizer.chat_template,
        **{name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None},
    )
