"""Adapt texts to the core: what text declares, reads, builds and loads, behind the contract of `hypergen.modality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hypergen.config import FitConfig, PretrainConfig
from hypergen.data.compressed import ZSTANDARD
from hypergen.data.hub import snapshot
from hypergen.data.tables import DATASETS
from hypergen.errors import InputError
from hypergen.modality import CodecCheckpoints, Metric, Modality
from hypergen.runtime.launcher import is_distributed
from hypergen.text import eight_bit, gguf, gguf_export, named_bases, sources
from hypergen.text.chat_template import require_template
from hypergen.text.checkpoint import (
    TOKENIZER_FILES,
    Source,
    load_causal,
    locate,
    new_llama,
    prepare_causal,
    processor_files,
    read_config,
)
from hypergen.text.config import PAPER_RECIPE, Settings
from hypergen.text.conversations import Example, plain_text
from hypergen.text.documents import cut_end
from hypergen.text.introspection import context_length, text_config
from hypergen.text.metrics import MAUVE, SACREBLEU
from hypergen.text.modality import TextModality
from hypergen.text.model import TextModel
from hypergen.text.peft_adapter import PEFT, PeftAdapter, find_adapter, load_peft, merge
from hypergen.text.tokenizer import (
    PROTOBUF,
    SENTENCEPIECE,
    TIKTOKEN,
    largest_id,
    load_tokenizer,
    train_tokenizer,
)
from hypergen.text.word_list import find_words

METRICS: dict[str, Metric] = {
    "known_words": Metric(
        head="known words",
        meaning="share of a completion's words that the base's word list has, 0 to 1",
        is_summary=True,
        better="higher",
    ),
    "self_bleu": Metric(
        head="self-BLEU",
        meaning="BLEU of a text with the other completions as references, 0 to 100; low is varied",
        decimals=1,
        is_diversity=True,
        better="lower",
    ),
    "dataset_bleu": Metric(
        head="dataset BLEU",
        meaning="BLEU of a text with all training texts as references, 0 to 100; high quotes",
        decimals=1,
        better="lower",
    ),
    "mauve": Metric(
        head="MAUVE",
        meaning="likeness of the completed and the original texts as two sets, 0 to 1; high is alike",
        better="higher",
    ),
}
OPTIONAL_DEPENDENCIES = {
    "sacrebleu": SACREBLEU,
    "mauve": MAUVE,
    "datasets": DATASETS,
    "zstandard": ZSTANDARD,
    "gguf": gguf.REQUIREMENT,
    "sentencepiece": SENTENCEPIECE,
    "google.protobuf": PROTOBUF,
    "tiktoken": TIKTOKEN,
    "peft": PEFT,
}
LIBRARIES = ("transformers",)
DEFAULT_PROMPTS = "stories"
FIGURE_SUFFIX = ".html"
PIPELINE_TAG: str | None = "text-generation"
LIBRARY_NAME = "transformers"
LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

source = "."  # this folder, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(source)
model = AutoModelForCausalLM.from_pretrained(source)
prompt = tokenizer("The lamp had gone out,", return_tensors="pt", return_token_type_ids=False)
ids = model.generate(**prompt, max_new_tokens=96, do_sample=False)  # greedy, which is what it was trained for
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""


def read(*, source: str, settings: Settings, skip_bad: int) -> Sequence[str | Example]:
    """Open the documents or examples of a source, which stay in its files until they are needed; see `sources.read`.

    Args:
        source: a file, a folder, the built-in stories, or hub:ID[:SPLIT].
        settings: name the field that holds the text, and limit the rows of a hub data set.
        skip_bad: bad rows that are skipped and counted, at most.

    Raises:
        InputError: the source cannot be read, is malformed, or has no text.
    """
    return sources.read(source, settings, skip_bad)


def read_rows(*, rows: Sequence[Any], source: str, settings: Settings, skip_bad: int) -> Sequence[str | Example]:
    """Take texts and examples, or rows of a table with the fields that a file's rows have; see `sources.read_rows`.

    Args:
        rows: at least one.
        source: what they are, for messages.
        settings: name the field that holds the text.
        skip_bad: bad rows that are skipped and counted, at most.

    Raises:
        InputError: a row is neither or malformed, or there is no text.
    """
    return sources.read_rows(rows, source, settings, skip_bad)


def card(*, source: str) -> Mapping[str, Any]:
    """Return the card of a named base (`named_bases`); empty for any other source.

    Args:
        source: the name.
    """
    return named_bases.card(source)


def cut(*, item: str | Example, count: int, settings: Settings) -> tuple[str, str] | None:
    """Cut the end off the only document of a source, long enough for `count` sequences, at most a quarter of it.

    Args:
        item: the document.
        count: sequences that are to be held out, at most.
        settings: say how long a sequence is.

    Returns:
        None where that quarter is shorter than a sequence, or the item no text.
    """
    return cut_end(item, count, _sequence_length(settings)) if isinstance(item, str) else None


def prepare_fit(*, settings: Settings, config: FitConfig) -> Settings:
    """Keep the blocks to be trained in memory, where the others stay in their files.

    Args:
        settings: what the user gave.
        config: the resolved options of the fit.

    Raises:
        InputError: --offload with options that it does not go with.
    """
    if not settings.offload:
        return settings
    if not config.last_layers:
        raise InputError("--offload: --last-layers 0 trains every block, so none can stay in a file; give 1 or more")
    _check_offload(config.allow_pickle_weights)
    return replace(settings, resident_blocks=max(settings.resident_blocks, config.last_layers))


def build(
    *, items: Sequence[str | Example], settings: Settings, config: PretrainConfig, checkpoints: CodecCheckpoints
) -> TextModality:
    """Make a fresh base: a BPE trained on the items (or the tokenizer of `config.codec_from`) and an untrained Llama.

    Args:
        items: documents that the BPE is trained on.
        settings: an open `sequence_length` becomes the paper's; it is the context of the model, too.
        config: sizes and seed.
        checkpoints: not needed, since a BPE takes seconds and comes out the same each time.

    Raises:
        InputError: the tokenizer cannot be loaded or has no end token, or width and heads do not fit.
    """
    trained, texts = config.codec_from, map(plain_text, items)
    tokenizer = train_tokenizer(texts, config.vocabulary_size) if trained is None else load_tokenizer(snapshot(trained))
    if tokenizer.eos_token_id is None:
        raise InputError(f"--codec-from {trained}: its tokenizer has no end token")
    causal = new_llama(
        max(len(tokenizer), largest_id(tokenizer) + 1),
        context_length=_sequence_length(settings),
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        end_token=tokenizer.eos_token_id,
        seed=config.seed,
    )
    return TextModality(TextModel(causal), tokenizer, settings)


def wrap(*, model: object, tokenizer: object, settings: Settings) -> TextModality:
    """Wrap a causal language model and its tokenizer; the model becomes fp32, decodes greedily and is trained in place.

    Args:
        model: of transformers.
        tokenizer: of transformers; by default the one that lies where the model was loaded from.
        settings: as in `load`.

    Raises:
        InputError: they are of another kind, nothing tells the tokenizer, or they do not fit each other.
    """
    _check_prompt(settings)
    if not isinstance(model, PreTrainedModel):
        kind = type(model).__name__
        raise InputError(f"--model: is of type {kind}; a causal language model of transformers is needed")
    origin = model.name_or_path or None
    if tokenizer is None:
        if origin is None:
            raise InputError("tokenizer: is needed for a model that was loaded from nowhere")
        tokenizer = load_tokenizer(origin)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"tokenizer: is of type {type(tokenizer).__name__}; one of transformers is needed")
    if settings.offload:
        raise InputError("--offload: reads a model from files; this one is in memory")
    causal, config = prepare_causal(model), text_config(model)
    settings = _fit_to_context(settings, context_length(config))
    _check_fit(type(model).__name__, config, tokenizer, _sequence_length(settings))
    return TextModality(TextModel(causal), tokenizer, settings, word_list=find_words(origin) if origin else None)


def load(*, source: str, settings: Settings, allow_pickle_weights: bool) -> TextModality:
    """Load a base or run.

    Args:
        source: a folder in the layout of `save_pretrained`, a GGUF file, a named base, or a hub id.
        settings: an open `sequence_length` becomes the paper's, or the context where that is smaller; the prompt fits
            into it.
        allow_pickle_weights: read pickled weights (.bin) where no others are.

    Raises:
        InputError: it is not there, not a plain causal language model, incomplete, or does not fit the settings.
    """
    _check_prompt(settings)
    if settings.offload:
        _check_offload(allow_pickle_weights)
    adapter = find_adapter(named_bases.resolve(source))
    if adapter:
        load_peft(adapter)
    found = locate(named_bases.resolve(adapter.base if adapter else source), allow_pickle_weights)
    if settings.offload:
        _check_offloadable(source, found, adapter)
    config = read_config(found)
    tokenizer = load_tokenizer(_tokenizer_source(adapter) or found.name, found.local_files_only)
    if settings.chat:
        require_template(tokenizer, f"--chat: {source}")
    language_model = config.get_text_config(decoder=True)
    settings = _fit_to_context(settings, context_length(language_model))
    _check_fit(found.name, language_model, tokenizer, _sequence_length(settings))
    words = find_words(adapter.base if adapter else source)
    causal = load_causal(found, config, settings.resident_blocks if settings.offload else None)
    if adapter:
        causal = merge(causal, adapter)
    return TextModality(
        TextModel(causal),
        tokenizer,
        settings,
        word_list=words,
        processor_files=processor_files(found, config),
    )


def _tokenizer_source(adapter: PeftAdapter | None) -> str | None:
    """Find the tokenizer that an adapter was saved with; None where it has none of its own."""
    if adapter is None or not any((adapter.folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return str(adapter.folder)


def _check_prompt(settings: Settings) -> None:
    prompt, length = settings.prompt_length, settings.sequence_length
    if length is not None and prompt >= length:
        raise InputError(f"--prompt-length {prompt}: must be below --sequence-length {length}")


def _check_offload(allow_pickle_weights: bool) -> None:
    if allow_pickle_weights:
        raise InputError("--offload: reads safetensors only; --allow-pickle-weights does not go with it")
    if is_distributed():
        raise InputError("--offload: runs in one process, so that the files are read once; this is one of several")


def _check_offloadable(source: str, found: Source, adapter: PeftAdapter | None) -> None:
    """Require files whose weights can be read as they are."""
    kinds = {
        "a PEFT adapter, which is merged in memory": adapter is not None,
        "a GGUF file": gguf.is_gguf(found.name),
        "stored in 8 bits": eight_bit.is_eight_bit(Path(found.name)),
    }
    for kind, is_so in kinds.items():
        if is_so:
            raise InputError(f"--offload: reads safetensors only; {source} is {kind}")


def _sequence_length(settings: Settings) -> int:
    return PAPER_RECIPE["sequence_length"] if settings.sequence_length is None else settings.sequence_length


def _fit_to_context(settings: Settings, context: int) -> Settings:
    """Choose an open sequence length for a model of this context."""
    if settings.sequence_length is not None:
        return settings
    length = min(_sequence_length(settings), context)
    return replace(settings, sequence_length=length, prompt_length=min(settings.prompt_length, length - 1))


def _check_fit(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> None:
    """Check vocabulary and context, as far as the configuration tells."""
    largest, context = largest_id(tokenizer), context_length(config)
    if largest >= getattr(config, "vocab_size", largest + 1):
        raise InputError(f"{name}: its tokenizer has id {largest}, but the model only ids below {config.vocab_size}")
    if sequence_length > context:
        raise InputError(f"--sequence-length {sequence_length}: the context of {name} is {context} tokens")


def _write_gguf(modality: Modality, file: Path, *, type: str, title: str) -> None:
    """Write a GGUF file of llama.cpp."""
    assert isinstance(modality, TextModality)
    causal, tokenizer = modality.model.causal, modality.tokenizer
    gguf_export.write_gguf(causal, tokenizer, file, type=type, title=title, end_tokens=modality.end_tokens)


def _write_eight_bit(modality: Modality, file: Path, *, type: str, title: str) -> None:
    """Write weights in 8 bits, without the tokenizer: hypergen reads them beside the other files of a run."""
    assert isinstance(modality, TextModality)
    eight_bit.write_weights(modality.model.causal, file)


EXPORT_WRITERS = {"gguf": _write_gguf, "safetensors": _write_eight_bit}
