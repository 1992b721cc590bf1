"""Frozen blocks whose weights stay in their safetensors files: read when they run, one block in memory at a time.

transformers says which weight lies where (names in a file and in a model differ; experts, which it merges, it writes
into a temporary folder first), and accelerate's hook stands in front of a block. The block that ran last stays until
another one runs, so whoever sends all sequences through one block before the next reads each block once.
Weights are fp32 in memory whatever the files hold, as without this, so every number is the same.
Does not know: texts, training, which sequences run.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_submodules
from accelerate.utils import PrefixedDataset
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hypergen.errors import InputError
from hypergen.text.anatomy import find_blocks


@contextmanager
def placement(name: str, config: PreTrainedConfig, num_resident: int | None) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` needs to leave all but the last `num_resident` blocks of the model `name` in their files.

    None: nothing. The folder, for weights that transformers must write anew, goes when the loading fails.

    Raises:
        InputError: the architecture has no list of blocks, or none would be left there.
    """
    if num_resident is None:
        yield {}
        return
    device_map = _device_map(name, config, num_resident)
    folder = tempfile.mkdtemp(prefix="hypergen-")
    logger = logging.getLogger("accelerate.big_modeling")  # says that weights are on the disk
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # names of weights outside the blocks serve well, too
            warnings.filterwarnings("ignore", "The following device_map keys do not match")
            yield {"device_map": device_map, "offload_folder": folder}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        logger.setLevel(level)


def _device_map(name: str, config: PreTrainedConfig, num_resident: int) -> dict[str, str]:
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    blocks = find_blocks(skeleton)
    if blocks is None:
        raise InputError(f"--offload: {type(skeleton).__name__} has no list of blocks that could stay in files")
    count = len(list(skeleton.get_submodule(blocks).children()))
    if num_resident >= count:
        left = f"leaves none of the {count} blocks of {name} in files"
        raise InputError(f"--offload: --last-layers {num_resident} {left}")
    places = {f"{blocks}.{number}": "disk" if number < count - num_resident else "cpu" for number in range(count)}
    outside = [name for name in skeleton.state_dict() if not name.startswith(f"{blocks}.")]
    return dict.fromkeys(outside, "cpu") | places  # every block by name: the name of block 1 begins that of block 10


def read_when_run(causal: PreTrainedModel, name: str, folder: str) -> None:
    """Replace accelerate's hooks of single layers, which read for each batch, by one of each block.

    Args:
        name: where the model comes from, for messages.
        folder: the one of `placement`; it goes when the model does.
    """
    weakref.finalize(causal, shutil.rmtree, folder, ignore_errors=True)
    weights = _weights(causal)
    remove_hook_from_submodules(causal)
    place = find_blocks(causal)
    slot: list[_FromFiles] = []
    for number, block in causal.get_submodule(place or "").named_children():
        if any(parameter.is_meta for parameter in block.parameters()):
            add_hook_to_module(block, _FromFiles(name, block, PrefixedDataset(weights, f"{place}.{number}."), slot))


def _weights(causal: PreTrainedModel) -> Mapping[str, Tensor]:
    """Name -> weight, read when asked for: what transformers found out while it loaded."""
    hooks: Iterator[Any] = (getattr(module, "_hf_hook", None) for module in causal.modules())
    return next(hook.weights_map.dataset for hook in hooks if getattr(hook, "offload", False))


def is_offloaded(module: nn.Module) -> bool:
    """Whether weights of it are in files at the moment."""
    return any(parameter.is_meta for parameter in module.parameters())


def largest_block(causal: PreTrainedModel) -> int:
    """Bytes."""
    hooks = (getattr(module, "_hf_hook", None) for module in causal.modules())
    blocks = [hook.empty.values() for hook in hooks if isinstance(hook, _FromFiles)]
    return max(sum(parameter.nbytes for parameter in block) for block in blocks)


@final
class _FromFiles(ModelHook):
    """Reads the weights of its block before the block runs, and first lets go of those in the slot."""

    def __init__(self, name: str, block: nn.Module, weights: Mapping[str, Tensor], slot: list[_FromFiles]):
        self.name, self.block, self.slot = name, block, slot
        self.weights_map = weights  # by names inside the block; save_pretrained looks for it here
        self.empty = dict(block.named_parameters())
        self.is_checked = False

    def pre_forward(self, module: nn.Module, *args: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self not in self.slot:
            for other in self.slot:
                other.block.load_state_dict(other.empty, strict=False, assign=True)
            self.slot.clear()
            hidden = args[0] if args else named["hidden_states"]
            with torch.inference_mode(False):  # they may stay until a training runs the block
                weights = {name: self._read(name).to(hidden.device) for name in self.empty}
            self.is_checked = True
            self.block.load_state_dict(weights, strict=False, assign=True)
            self.slot.append(self)
        return args, named

    def _read(self, name: str) -> Tensor:
        try:
            weight = self.weights_map[name]
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.name}: weight {name} of a block can no longer be read ({error})") from error
        if not self.is_checked and not bool(weight.isfinite().all()):
            raise InputError(f"{self.name}: weight {name} of a block has values that are not finite")
        return weight
