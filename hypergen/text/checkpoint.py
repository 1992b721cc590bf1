"""Make, load and save the causal language model of a text base, always through safetensors.

Everything that can be seen without reading weights is checked first. Code that comes with a model, or that its
configuration names, is never run; pickled weights are read only where the user says so, and by torch's restricted
unpickler alone.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from hypergen.data.folders import expanded
from hypergen.data.hub import HUB_ID, is_offline, snapshot
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.runtime.progress import Advance, track
from hypergen.storage.atomic import follow_umask
from hypergen.storage.strict_json import read_object
from hypergen.text import eight_bit, gguf, offload
from hypergen.text.config import MODEL_FILES, MODEL_SUFFIXES
from hypergen.text.introspection import check_context

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)
PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
PROCESSOR_FILES = (  # of the multimodal classes that a checkpoint may be loaded by
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "chat_template.json",
)
MOST_PROCESSOR_BYTES = 2**24  # of one of them
INDEX, PICKLE_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
BARS = {"Loading weights": "load weights", "Writing model shards": "write weights"}  # transformers' titles -> ours
LAYER_FIELDS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_hidden_layers_per_stage")
MOST_LAYERS = 1000  # so that a configuration alone cannot fill the memory; no published model has 200


@dataclass(frozen=True)
class Source:
    """Describe where a model comes from."""

    name: str
    """A folder, a GGUF file, or an id on the hub."""
    local_files_only: bool
    """It is here, or the hub cannot be reached and only its local cache is left."""
    safetensors: tuple[bool, ...] = (True,)
    """Formats to try, in order: weights as safetensors (True), pickled (False)."""


def new_llama(
    num_tokens: int, *, context_length: int, width: int, num_layers: int, num_heads: int, end_token: int, seed: int
) -> PreTrainedModel:
    """Make a fresh Llama in fp32 with tied embeddings and no dropout.

    Residual outputs are scaled down by depth, as in GPT-2's initialization.

    Raises:
        InputError: the width of a head is odd, which rotary positions cannot serve.
    """
    if (width // num_heads) % 2:
        raise InputError(f"--width {width} --num-heads {num_heads}: width / heads must be even for rotary positions")
    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=end_token,
        eos_token_id=end_token,
        pad_token_id=end_token,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        causal = LlamaForCausalLM(config)
        for block in causal.model.layers:
            for output in (block.self_attn.o_proj, block.mlp.down_proj):
                nn.init.normal_(output.weight, std=config.initializer_range / math.sqrt(2 * num_layers))
    _decode_greedily(causal)
    return causal


def locate(name: str, allow_pickle_weights: bool = False) -> Source:
    """Find a base: a folder or GGUF file that has everything a base needs, or a hub id.

    Raises:
        InputError: none of them, or the folder lacks its configuration, safetensors weights or tokenizer.
    """
    folder = expanded(snapshot(name))
    if folder.is_dir():
        return Source(str(folder), local_files_only=True, safetensors=(_check_folder(folder, allow_pickle_weights),))
    if gguf.is_gguf(folder):
        header = gguf.read_header(folder)
        _check_layers(folder, {LAYER_FIELDS[0]: header.value("block_count") or 0})
        return Source(str(folder), local_files_only=True)
    if folder.exists():
        raise InputError(f"{name}: is a file; a base is a folder, a .gguf file or the id of a model on the hub")
    if folder.suffix.lower() in MODEL_SUFFIXES:
        raise InputError(f"{name}: no such file")
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such folder")
    return Source(name, is_offline(), safetensors=(True, False) if allow_pickle_weights else (True,))


def read_config(source: Source) -> PreTrainedConfig:
    """Read the configuration, and require a decoder-only, unquantized model that transformers has.

    Raises:
        InputError: it cannot be read, or is of another kind.
    """
    try:
        with quiet(), gguf.whereabouts(source.name) as where:
            config = AutoConfig.from_pretrained(
                **where, trust_remote_code=False, local_files_only=source.local_files_only
            )
    except Exception as error:  # whatever hub, JSON and transformers raise
        raise _unreadable(source, error) from error
    if config.is_encoder_decoder:
        raise InputError(f"{source.name}: {config.model_type} is an encoder-decoder; a causal language model is needed")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{source.name}: its weights are quantised; hyperfitting needs the unquantised model")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"{source.name}: transformers has no causal language model of type '{config.model_type}'")
    for part in _nested_configs(config):
        for name in ("attn_implementation", "experts_implementation"):
            if "/" in str(getattr(part, f"_{name}", None)):
                raise InputError(f"{source.name}: its {name} is a kernel of the hub, which is code; it is never run")
    if gguf.is_gguf(source.name):
        gguf.complete_config(gguf.read_header(Path(source.name)), config)
    check_context(source.name, config.get_text_config(decoder=True))
    return config


def _nested_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a configuration and those inside it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _nested_configs(value)


def load_causal(source: Source, config: PreTrainedConfig, num_resident: int | None = None) -> PreTrainedModel:
    """Load the model in fp32.

    Args:
        source: from `locate`.
        config: from `read_config`.
        num_resident: how many of the last blocks are read, while the others stay in their files (`offload`); None: all.

    Raises:
        InputError: weights are not there in the allowed format, broken, incomplete or not finite.
    """
    with offload.placement(source.name, config, num_resident) as where:
        causal, report = _first_found(source, config, where)
        missing = sorted(report["missing_keys"])
        if missing:
            raise InputError(f"{source.name}: {len(missing)} weights are missing, the first is {missing[0]}")
    if gguf.is_gguf(source.name):
        gguf.forget_quantization(causal)
        gguf.warn_about_unused(gguf.read_header(Path(source.name)), causal)
    if where:
        offload.install_hooks(causal, source.name, where["offload_folder"])
    _check_finite(source.name, causal)
    _decode_greedily(causal)
    return causal


def prepare_causal(causal: PreTrainedModel) -> PreTrainedModel:
    """Prepare a model that the caller has loaded, in place: fp32, and greedy generation defaults.

    Raises:
        InputError: it is quantized, no decoder alone, or has weights that are not finite.
    """
    name, config = type(causal).__name__, causal.config
    if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"--model: {name} is no causal language model")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"--model: its weights are quantised; hyperfitting needs the unquantised {name}")
    causal.float()
    _check_finite(name, causal)
    _decode_greedily(causal)
    return causal


def _check_finite(name: str, causal: PreTrainedModel) -> None:
    weights = {one: weight for one, weight in causal.named_parameters() if not weight.is_meta}
    with track("check weights", len(weights), transient=True) as advance:
        for one, weight in weights.items():
            if not weight.isfinite().all():
                raise InputError(f"{name}: weight {one} has values that are not finite")
            advance()


def _first_found(source: Source, config: PreTrainedConfig, where: dict[str, Any]) -> Any:
    """Load the model and transformers' report about it, from the first format that is there."""
    for number, use_safetensors in enumerate(source.safetensors, 1):
        try:
            return _from_pretrained(source, config, use_safetensors, **where)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever hub, safetensors, torch and transformers raise
            if number == len(source.safetensors):
                raise InputError(f"{source.name}: its weights cannot be loaded ({first_line(error)})") from error
    raise AssertionError("a source names at least one format")


def _from_pretrained(source: Source, config: PreTrainedConfig, use_safetensors: bool, **options: Any) -> Any:
    if eight_bit.is_eight_bit(Path(source.name)):
        options |= {"state_dict": eight_bit.read_weights(Path(source.name)), "output_loading_info": True}
        kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
        with quiet():
            return kind.from_pretrained(None, config=config, dtype=torch.float32, **options)
    options |= gguf.unpacking() if gguf.is_gguf(source.name) else {"use_safetensors": use_safetensors}
    with quiet(keep_bars=not source.local_files_only), gguf.whereabouts(source.name) as where:
        return AutoModelForCausalLM.from_pretrained(
            **where,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,
            local_files_only=source.local_files_only,
            output_loading_info=True,
            **options,
        )


def processor_files(source: Source, config: PreTrainedConfig) -> dict[str, bytes]:
    """Read the files by which a multimodal checkpoint turns pictures and sounds into input, by name.

    A run keeps them, so that the multimodal class loads it as it loads its base.
    """
    if config.get_text_config(decoder=True) is config or gguf.is_gguf(source.name):
        return {}
    folder, found = Path(source.name), {}
    for name in PROCESSOR_FILES:
        path = folder / name if folder.is_dir() else _fetched(source, name)
        if path is not None and path.is_file() and path.stat().st_size <= MOST_PROCESSOR_BYTES:
            found[name] = path.read_bytes()
    return found


def _fetched(source: Source, name: str) -> Path | None:
    """Fetch a file of a hub id; None where it has none."""
    try:
        return Path(hf_hub_download(source.name, name, local_files_only=source.local_files_only))
    except Exception:  # whatever network and hub raise: most checkpoints lack most of them
        return None


def save_causal(causal: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (safetensors, stored as `dtype`), configuration and greedy generation defaults into `folder`."""
    options: dict[str, Any] = {}
    if offload.is_offloaded(causal):
        options["max_shard_size"] = offload.largest_block(causal)  # a shard is what is read into memory together
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
        causal.save_pretrained(folder, state_dict=_converted(causal.state_dict(), dtype), **options)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n", encoding="utf-8"
    )
    follow_umask(folder)


@contextmanager
def quiet(keep_bars: bool = False) -> Iterator[None]:
    """Silence transformers inside, since hypergen checks the result; `keep_bars` leaves the bars of a download.

    Weights that are read or written show our own progress.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    phases = ExitStack()  # of progress; closed below, also where a loading fails in the middle
    former_hook = logging.set_tqdm_hook(partial(_own_progress, phases))
    if not keep_bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        phases.close()
        logging.set_tqdm_hook(former_hook)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _own_progress(
    phases: ExitStack, bar: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Iterable[Any]:
    """Replace transformers' bar over weights by our progress, which ends with `phases`; other bars stay as they are."""
    label = BARS.get(options.get("desc", ""))
    if label is None or not arguments:
        return bar(*arguments, **options)
    return _advancing(arguments[0], phases.enter_context(track(label, len(arguments[0]), transient=True)))


def _advancing(items: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for item in items:
        yield item
        advance()


def _check_folder(folder: Path, allow_pickle_weights: bool) -> bool:
    """Require the files of a base, and tell whether its weights are safetensors."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: has no config.json; a base is a folder in the layout of save_pretrained")
    if any((folder / name).exists() for name in MODEL_FILES):
        cure = "without its config.json it would be merged into that"
        raise InputError(f"{folder}: is an adapter ({MODEL_FILES[0]}) of another model, beside a whole one; {cure}")
    _check_layers(folder / "config.json", read_object(folder / "config.json"))
    is_safe = any(folder.glob("model*.safetensors"))
    if not is_safe and not (allow_pickle_weights and any(folder.glob("pytorch_model*.bin"))):
        pickled = any(any(folder.glob(pattern)) for pattern in PICKLE_FILES)
        reason = "only pickled weights, which can run code; convert them to safetensors" if pickled else "no weights"
        raise InputError(f"{folder}: has {reason} (model.safetensors is needed)")
    _check_index(folder / (INDEX if is_safe else PICKLE_INDEX))
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder}: has no tokenizer ({', '.join(TOKENIZER_FILES)})")
    return is_safe


def _check_layers(path: Path, config: dict[str, Any]) -> None:
    """Limit the number of layers, because some configurations already build lists of this length."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_layers(path, value)
        elif key in LAYER_FIELDS and not (isinstance(value, int) and 0 <= value <= MOST_LAYERS):
            raise InputError(f"{path}: {key} must be a whole number, at most {MOST_LAYERS}")


def _check_index(path: Path) -> None:
    """Require that the files of sharded weights lie in the folder itself."""
    if not path.is_file():
        return
    files = read_object(path).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{path}: weight_map must name a file for each weight")
    for name in set(files.values()):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InputError(f"{path}: names a file that is not in the folder")


def _unreadable(source: Source, error: Exception) -> InputError:
    if gguf.is_gguf(source.name):
        return InputError(f"{source.name}: transformers cannot read its configuration ({first_line(error)})")
    if Path(source.name).is_dir():
        return InputError(f"{source.name}: its config.json cannot be read ({first_line(error)})")
    tried = "no such folder, and not in the local hub cache; the hub cannot be reached"
    if not source.local_files_only:
        tried = f"no such folder, and the hub does not give it ({first_line(error)})"
    return InputError(f"{source.name}: {tried}")


def _decode_greedily(causal: PreTrainedModel) -> None:
    """Make `generate` on a saved model greedy, and drop the original's sampling values, which may not be valid."""
    given = causal.generation_config
    if given is not None:
        ids = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        causal.generation_config = GenerationConfig(do_sample=False, **ids)


def _converted(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert floating-point weights to `dtype`; tensors that share memory (tied weights) still do."""
    by_address: dict[tuple[int, torch.Size], Tensor] = {}
    return {
        name: weight
        if weight.is_meta  # in a file, which save_pretrained reads
        else by_address.setdefault(
            (weight.data_ptr(), weight.shape), weight.to(dtype) if weight.is_floating_point() else weight
        )
        for name, weight in weights.items()
    }
