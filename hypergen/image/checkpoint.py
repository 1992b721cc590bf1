"""Load and save a transformer in the layout of `transformers.ImageGPTForCausalImageModeling`.

Names, shapes and layout of the weights are the same on both sides, so nothing is converted. Settings that would change
the logits and that `ImageTransformer` does not have are refused by name. Reads safetensors; pickled weights only where
the user says so, by torch's restricted unpickler alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hypergen.errors import InputError
from hypergen.image.transformer import ImageTransformer, TransformerConfig
from hypergen.runtime.console import first_line
from hypergen.runtime.progress import track
from hypergen.storage.atomic import follow_umask
from hypergen.storage.strict_json import read_object

WEIGHTS, CONFIG, PICKLED = "model.safetensors", "config.json", "pytorch_model.bin"
MOST_LAYERS = 1000  # so that a configuration alone cannot fill the memory; ImageGPT's largest has 48
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints carry along
REQUIRED = {
    "model_type": "imagegpt",
    "activation_function": "quick_gelu",
    "add_cross_attention": False,
    "tie_word_embeddings": False,
}
SIZES = {  # key of config.json -> our field, ImageGPT's default
    "n_positions": ("num_positions", 1024),
    "n_embd": ("width", 512),
    "n_layer": ("num_layers", 24),
    "n_head": ("num_heads", 8),
}
SWITCHES = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
NUMBERS = {"layer_norm_epsilon": ("norm_epsilon", 1e-5), "initializer_range": ("initializer_range", 0.02)}


def to_json(config: TransformerConfig) -> dict[str, Any]:
    """Write a shape as the content of a `config.json`."""
    named = {key: getattr(config, name) for key, (name, _) in (SIZES | NUMBERS).items()}
    return {
        **REQUIRED,
        "architectures": ["ImageGPTForCausalImageModeling"],
        "vocab_size": config.num_codes + 1,
        **named,
        "n_inner": config.inner_width,
        **{name: getattr(config, name) for name in SWITCHES},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


def read_config(folder: Path) -> TransformerConfig:
    """Read the shape from `config.json` in a folder; raises as `from_json`."""
    return from_json(read_object(folder / CONFIG), str(folder / CONFIG))


def from_json(content: dict[str, Any], where: str) -> TransformerConfig:
    """Read the shape from the content of a `config.json`.

    `reorder_and_upcast_attn` is let through: it orders the same arithmetic differently.

    Args:
        content: of the file.
        where: the file, for messages.

    Raises:
        InputError: `ImageTransformer` does not do this; it names the key, its value and the allowed ones.
    """
    for key, allowed in REQUIRED.items():
        if content.get(key, allowed) != allowed:
            raise InputError(f"{where}: {key} is {content[key]!r}; allowed is {allowed!r}")
    values: dict[str, Any] = {name: _size(content, key, default, where) for key, (name, default) in SIZES.items()}
    for key, (name, number) in NUMBERS.items():
        values[name] = content.get(key, number)
        if type(values[name]) not in (int, float) or not 0 < values[name] < math.inf:
            raise InputError(f"{where}: {key} is {values[name]!r}; must be a number above 0")
    for key, switch in SWITCHES.items():
        values[key] = content.get(key, switch)
        if type(values[key]) is not bool:
            raise InputError(f"{where}: {key} is {values[key]!r}; must be true or false")
    if values["num_layers"] > MOST_LAYERS:
        raise InputError(f"{where}: n_layer is {values['num_layers']}; must be at most {MOST_LAYERS}")
    if content.get("n_inner") is not None:
        values["inner_width"] = _size(content, "n_inner", 0, where)
    if values["width"] % values["num_heads"]:
        raise InputError(f"{where}: n_embd {values['width']} must be a multiple of n_head {values['num_heads']}")
    return TransformerConfig(num_codes=_size(content, "vocab_size", 513, where, least=2) - 1, **values)


def _size(content: dict[str, Any], key: str, default: int, where: str, least: int = 1) -> int:
    value = content.get(key, default)
    if type(value) is not int or not least <= value < 2**31:
        raise InputError(f"{where}: {key} is {value!r}; must be a whole number, {least} or more")
    return value


def save_transformer(model: ImageTransformer, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `config.json` and `model.safetensors`, with weights of this dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    content = to_json(model.config) | {"dtype": str(dtype).removeprefix("torch.")}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    follow_umask(folder)


def load_transformer(folder: Path, allow_pickle_weights: bool = False) -> ImageTransformer:
    """Load a checkpoint, with fp32 weights on the CPU, in evaluation mode.

    Args:
        folder: has `config.json` and the weights.
        allow_pickle_weights: read pickled weights where no others are.

    Raises:
        InputError: files missing or damaged, an unsupported setting, or weights with other names or shapes.
    """
    config = read_config(folder)
    path, weights = _read_weights(folder, allow_pickle_weights)
    weights = {name: weight for name, weight in weights.items() if not name.endswith(BUFFERS)}
    with torch.device("meta"):
        model = ImageTransformer(config)
    _check_weights(weights, model.state_dict(), path)
    model.to_empty(device="cpu")
    own = model.state_dict()
    with track("load weights", len(weights), transient=True) as advance:
        for name, weight in weights.items():
            own[name].copy_(weight)  # into fp32
            advance()
    return model.eval()


def _read_weights(folder: Path, allow_pickle_weights: bool) -> tuple[Path, dict[str, torch.Tensor]]:
    path, pickled = folder / WEIGHTS, folder / PICKLED
    if path.is_file():
        try:
            return path, load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read ({first_line(error)})") from None
    if not pickled.is_file():
        raise InputError(f"{folder}: no {WEIGHTS}; weights are read from one safetensors file only")
    if not allow_pickle_weights:
        raise InputError(f"{folder}: has only pickled weights, which can run code; convert them to {WEIGHTS}")
    try:
        weights = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # any that the restricted unpickler raises
        raise InputError(f"{pickled}: cannot be read ({first_line(error)})") from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in weights.items()
    ):
        raise InputError(f"{pickled}: must hold weights by name and nothing else")
    return pickled, weights


def _check_weights(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse weights with other names or shapes, or with values that are not finite."""
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        first = "; ".join(f"{len(names)} {kind}, the first is {names[0]}" for kind, names in found.items() if names)
        raise InputError(f"{path}: weights differ from ImageGPT's: {first}")
    with track("check weights", len(weights), transient=True) as advance:
        for name, weight in weights.items():
            if weight.shape != expected[name].shape:
                raise InputError(f"{path}: {name} is {tuple(weight.shape)}; must be {tuple(expected[name].shape)}")
            if not bool(torch.isfinite(weight).all()):
                raise InputError(f"{path}: {name} has values that are not finite")
            advance()
