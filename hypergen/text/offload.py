"""Leave the weights of frozen blocks in their safetensors files, and read them when they run, one block at a time.

transformers says which weight lies where (names in a file and in a model differ; experts, which it merges, it writes
into a temporary folder first), and accelerate's hook stands in front of a block. The block that ran last stays until
another one runs, so a caller that sends all sequences through one block before the next reads each block once.
Weights are fp32 in memory whatever the files hold, as without this, so every number is the same.
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
from hypergen.text.introspection import find_blocks


@contextmanager
def placement(name: str, config: PreTrainedConfig, num_resident: int | None) -> Iterator[dict[str, Any]]:
    """Yield arguments of `from_pretrained` that leave all but the last `num_resident` blocks in their files.

    They are empty where `num_resident` is None. The folder, for weights that transformers must write anew, is removed
    when the loading fails.

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
        raise InputError(f"--offload: --last-layers or --resident-blocks {num_resident} {left}")
    of_blocks = {f"{blocks}.{number}": "disk" if number < count - num_resident else "cpu" for number in range(count)}
    outside = [name for name in skeleton.state_dict() if not name.startswith(f"{blocks}.")]
    return dict.fromkeys(outside, "cpu") | of_blocks  # every block by name: the name of block 1 begins that of block 10


def install_hooks(causal: PreTrainedModel, name: str, folder: str) -> None:
    """Replace accelerate's hooks of single layers, which read for each batch, by one of each block.

    Args:
        causal: the model, loaded with the arguments from `placement`.
        name: where it comes from, for messages.
        folder: the one of `placement`; it is removed together with the model.
    """
    weakref.finalize(causal, shutil.rmtree, folder, ignore_errors=True)
    weights = _weights(causal)
    remove_hook_from_submodules(causal)
    blocks = find_blocks(causal)
    assert blocks is not None  # `placement` requires it
    loaded: list[_ReadBlock] = []
    for number, block in causal.get_submodule(blocks).named_children():
        if is_offloaded(block):
            add_hook_to_module(block, _ReadBlock(name, block, PrefixedDataset(weights, f"{blocks}.{number}."), loaded))


def _weights(causal: PreTrainedModel) -> Mapping[str, Tensor]:
    """Take over the mapping from names to weights in files that transformers made while it loaded."""
    hooks: Iterator[Any] = (getattr(module, "_hf_hook", None) for module in causal.modules())
    return next(hook.weights_map.dataset for hook in hooks if getattr(hook, "offload", False))


def is_offloaded(module: nn.Module) -> bool:
    """Tell whether weights of it are in files at the moment."""
    return any(parameter.is_meta for parameter in module.parameters())


def read_weight(causal: PreTrainedModel, name: str) -> Tensor:
    """Return a weight by its name, read from its file where it is there at the moment."""
    weight = causal.get_parameter(name)
    if not weight.is_meta:
        return weight
    hooks = ((block, getattr(module, "_hf_hook", None)) for block, module in causal.named_modules())
    return next(
        hook.read(name.removeprefix(f"{block}."))
        for block, hook in hooks
        if isinstance(hook, _ReadBlock) and name.startswith(f"{block}.")
    )


def largest_block(causal: PreTrainedModel) -> int:
    """Compute the bytes of the largest block in files."""
    hooks = (getattr(module, "_hf_hook", None) for module in causal.modules())
    blocks = [hook.empty.values() for hook in hooks if isinstance(hook, _ReadBlock)]
    return max(sum(parameter.nbytes for parameter in block) for block in blocks)


@final
class _ReadBlock(ModelHook):
    """Read the weights of a block before it runs, after those of the block that ran last are freed."""

    def __init__(self, name: str, block: nn.Module, weights: Mapping[str, Tensor], loaded: list[_ReadBlock]):
        self.name, self.block = name, block
        self.loaded = loaded  # the hook, at most one, whose block is in memory; all hooks of a model share the list
        self.weights_map = weights  # by names inside the block; save_pretrained looks for it here
        self.empty = dict(block.named_parameters())
        self.is_checked = False

    def pre_forward(self, module: nn.Module, *args: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Bring the block's weights into memory."""
        if self not in self.loaded:
            for other in self.loaded:
                other.block.load_state_dict(other.empty, strict=False, assign=True)
            self.loaded.clear()
            hidden = args[0] if args else named["hidden_states"]
            with torch.inference_mode(False):  # they may stay until a training runs the block
                weights = {name: self.read(name).to(hidden.device) for name in self.empty}
            self.is_checked = True
            self.block.load_state_dict(weights, strict=False, assign=True)
            self.loaded.append(self)
        return args, named

    def read(self, name: str) -> Tensor:
        """Read one weight of the block by its name inside it."""
        try:
            weight = self.weights_map[name]
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.name}: weight {name} of a block can no longer be read ({error})") from error
        if not self.is_checked and not bool(weight.isfinite().all()):
            raise InputError(f"{self.name}: weight {name} of a block has values that are not finite")
        return weight
