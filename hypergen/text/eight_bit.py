"""Store the weights of a model in 8 bits and read them back in fp32, so that a larger base fits into a package.

A row of a matrix is int8 with a scale of its own, as in llama.cpp's Q8_0 with a whole row for a block; vectors stay
fp32. It is a format of storage alone: training and decoding never see it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from hypergen.errors import InputError
from hypergen.runtime.console import first_line

WEIGHTS = "model-int8.safetensors"  # in place of model.safetensors, in a folder of save_pretrained
SCALE = ".scale"  # name of a matrix -> name of its scales
HIGHEST = 127


def write_weights(causal: PreTrainedModel, file: Path) -> None:
    """Write the weights in 8 bits; tied ones once, by their first name."""
    stored: dict[str, Tensor] = {}
    for name, parameter in causal.named_parameters():  # which gives shared ones once
        weight = parameter.detach().float().cpu()
        if weight.ndim < 2:
            stored[name] = weight.contiguous()
            continue
        scale = (weight.abs().amax(-1, keepdim=True) / HIGHEST).clamp(min=torch.finfo(torch.float32).tiny)
        stored[name], stored[name + SCALE] = (weight / scale).round().to(torch.int8), scale
    save_file(stored, file, {"format": "pt"})


def is_eight_bit(folder: Path) -> bool:
    """Tell whether a folder has its weights in 8 bits alone; whole ones beside them go first."""
    return [path.name for path in folder.glob("model*.safetensors")] == [WEIGHTS]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder back in fp32.

    Raises:
        InputError: the file is damaged, or a matrix in it has no scales.
    """
    file = folder / WEIGHTS
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
    return {name: _widened(file, name, stored) for name in stored if not name.endswith(SCALE)}


def _widened(file: Path, name: str, stored: dict[str, Tensor]) -> Tensor:
    weight, scale = stored[name], stored.get(name + SCALE)
    if weight.dtype != torch.int8:
        return weight.float()
    if scale is None or scale.shape != (*weight.shape[:-1], 1):
        raise InputError(f"{file}: {name} has no scales of its rows")
    return weight.float() * scale.float()
