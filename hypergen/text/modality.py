"""The text adapter: documents, a tokenizer and a causal language model behind the contract of `hypergen.modality`.

Does not know: training, decoding strategies, run folders, pictures.

Shape letters: N sequences, B batch, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hypergen.checkpoints import Checkpoints
from hypergen.config import PAPER_RECIPE, PretrainConfig, fill
from hypergen.errors import InputError
from hypergen.processes import are_several
from hypergen.text import base, codec, files, page
from hypergen.text.anatomy import context_length, text_config
from hypergen.text.config import Settings
from hypergen.text.measures import TextYardstick
from hypergen.text.model import TextModel

DEFAULT_PROMPTS = "stories"
DEFAULT_NEW_TOKENS = 256
CANDIDATES_PER_SEQUENCE = 16  # windows that are looked at for each one that is chosen


def read(source: str, settings: Settings, skip_bad: int = 0) -> list[str]:
    """Documents of a .txt or .jsonl file, of the built-in stories, or of hub:ID; up to `skip_bad` bad rows passed over.

    Raises:
        InputError: the source cannot be read, is malformed, or has no text.
    """
    return files.read(source, settings, skip_bad)


def build(
    items: Sequence[str], settings: Settings, config: PretrainConfig, checkpoints: Checkpoints | None = None
) -> TextModality:
    """A fresh base: a BPE trained on the items (or the codec of `config.codec_from`) and an untrained Llama.

    Args:
        checkpoints: not used; a BPE takes seconds and comes out the same each time.

    Raises:
        InputError: the codec cannot be loaded or has no end token, or width and heads do not fit.
    """
    trained = config.codec_from
    if settings.offload:
        raise InputError("--offload: pretrain trains every block, so none can stay in a file")
    tokenizer = (
        codec.train_tokenizer(items, config.vocabulary_size) if trained is None else codec.load_tokenizer(trained)
    )
    if tokenizer.eos_token_id is None:
        raise InputError(f"--codec-from {trained}: its tokenizer has no end token")
    settings = fill(settings, PAPER_RECIPE)
    causal = base.new_llama(
        max(len(tokenizer), codec.largest_id(tokenizer) + 1),
        context_length=settings.sequence_length or 0,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        end_token=tokenizer.eos_token_id,
        seed=config.seed,
    )
    return TextModality(TextModel(causal), tokenizer, settings)


def load(
    folder: str | Path, settings: Settings, allow_pickle_weights: bool = False, last_layers: int | None = None
) -> TextModality:
    """A base or run: a folder in the layout of `save_pretrained`, or a hub id.

    An open `sequence_length` becomes the paper's, or the context where that is smaller; the prompt fits into it.

    Args:
        last_layers: how many blocks will be trained, 0: all; None: the model will not be trained.

    Raises:
        InputError: it is not there, not a plain causal language model, incomplete, or does not fit the settings.
    """
    _check_prompt(settings)
    if settings.offload:
        _check_offload(allow_pickle_weights, last_layers)
    source = base.locate(str(folder), allow_pickle_weights)
    config = base.read_config(source)
    tokenizer = codec.load_tokenizer(source.name, source.local_files_only)
    language_model = config.get_text_config(decoder=True)
    settings = _within(settings, context_length(language_model))
    _check_fit(source.name, language_model, tokenizer, settings.sequence_length or 0)
    num_resident = (last_layers or 0) if settings.offload else None
    return TextModality(TextModel(base.load_causal(source, config, num_resident)), tokenizer, settings)


def _check_prompt(settings: Settings) -> None:
    prompt, length = settings.prompt_length, settings.sequence_length
    if length is not None and prompt >= length:
        raise InputError(f"--prompt-length {prompt}: must be below --sequence-length {length}")


def _check_offload(allow_pickle_weights: bool, last_layers: int | None) -> None:
    if last_layers == 0:
        raise InputError("--offload: --last-layers 0 trains every block, so none can stay in a file; give 1 or more")
    if allow_pickle_weights:
        raise InputError("--offload: reads safetensors only; --allow-pickle-weights does not go with it")
    if are_several():
        raise InputError("--offload: runs in one process, so that the files are read once; this is one of several")


def _within(settings: Settings, context: int) -> Settings:
    """The settings with an open sequence length chosen for a model of this context."""
    if settings.sequence_length is not None:
        return settings
    length = min(fill(settings, PAPER_RECIPE).sequence_length, context)
    return replace(settings, sequence_length=length, prompt_length=min(settings.prompt_length, length - 1))


def _check_fit(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> None:
    """Vocabulary and context, as far as the configuration tells."""
    largest, context = codec.largest_id(tokenizer), context_length(config)
    if largest >= getattr(config, "vocab_size", largest + 1):
        raise InputError(f"{name}: its tokenizer has id {largest}, but the model only ids below {config.vocab_size}")
    if sequence_length > context:
        raise InputError(f"--sequence-length {sequence_length}: the context of {name} is {context} tokens")


@final
class TextModality:
    """Documents (str) <-> ids, and the model over them."""

    name = "text"

    def __init__(self, model: TextModel, tokenizer: PreTrainedTokenizerBase, settings: Settings):
        self.model = model
        self.tokenizer = tokenizer
        self.settings: Settings = fill(settings, PAPER_RECIPE)
        self.end_token: int | None = _end_token(model, tokenizer)
        self._prefix = codec.prefix_ids(tokenizer)

    @property
    def sequence_length(self) -> int:
        """Tokens of one training sequence."""
        return self.settings.sequence_length or 0

    def with_settings(self, settings: Settings) -> TextModality:
        """The same codec and model under other settings."""
        return TextModality(self.model, self.tokenizer, settings)

    def encode(self, items: Sequence[str], count: int | None = None, seed: int = 0) -> Tensor:
        """Documents -> (N, T) int64 ids, T = `sequence_length`.

        Without `count` (pretraining): one packed stream, the end token before, between and after the documents, cut
        into sequences; the remainder is dropped. With `count`: documents in an order drawn with `seed`, each cut into
        windows that do not overlap, and `count` of those windows drawn with `seed`.

        Raises:
            InputError: too few tokens, sequences longer than the context, or ids that the model lacks.
        """
        self._require_context()
        tokens = self._packed(items) if count is None else self._chosen(items, count, seed)
        return self._require_known(tokens)

    def examples(self, items: Sequence[str], count: int, seed: int = 0) -> Tensor:
        """At most `count` sequences (N, T) of held-out documents in an order drawn with `seed`: the beginning of every
        document first, then, where that is not enough, their later windows. Documents shorter than T are passed over.

        Raises:
            InputError: no document is long enough, or as `encode`.
        """
        self._require_context()
        documents: list[Tensor] = []
        for windows in self._windows(_shuffled(items, torch.Generator().manual_seed(seed))):
            documents.extend([windows] if len(windows) else [])
            if len(documents) == count:
                break
        if not documents:
            raise InputError(
                f"--sequence-length {self.sequence_length}: none of {len(items)} held-out texts has so many tokens"
            )
        places = range(max(map(len, documents)))
        found = [document[place] for place in places for document in documents if place < len(document)]
        return self._require_known(torch.stack(found[:count]))

    def begin(self, prompt: Tensor) -> Tensor:
        """(B, P) ids without start token, P >= 0 -> (B, P') ids, P' >= 1: what the tokenizer puts in front is added.

        Raises:
            InputError: the prompt is empty and the tokenizer has neither a begin nor an end token to start from.
        """
        prefix = self._prefix
        if not prefix and prompt.shape[1] == 0:
            first = self.end_token if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
            if first is None:
                raise InputError("an empty prompt needs a tokenizer with a begin or end token; this one has neither")
            prefix = [first]
        return torch.cat([prompt.new_tensor(prefix).expand(len(prompt), -1), prompt], 1)

    def encode_prompt(self, item: str, number: int | None = None) -> Tensor:
        """A prompt, possibly empty -> (P,) int64 ids, begin included. `number`: its place among several.

        Raises:
            InputError: it leaves no room in the context, or has ids that the model lacks.
        """
        _check_text(item, number)
        ids = next(codec.tokenize(self.tokenizer, [item], special=False))
        prompt = self.begin(torch.tensor([ids], dtype=torch.long))[0]
        context = self.model.context_length
        if len(prompt) >= context:
            which = "prompt" if number is None else f"prompt {number}"
            raise InputError(
                f"{which}: {len(prompt)} tokens; the context of {context} leaves room for at most {context - 1}"
            )
        return self._require_known(prompt)

    def prompts(self, tokens: Tensor) -> Tensor:
        """Encoded tokens (N, T) -> (N, P), their first `prompt_length` ids."""
        length = self.settings.prompt_length
        if length >= tokens.shape[1]:
            raise InputError(f"--prompt-length {length}: must be below the {tokens.shape[1]} tokens of a sequence")
        return tokens[:, :length]

    def max_new_tokens(self, prompt_length: int) -> int:
        """256, or what the context leaves."""
        return max(0, min(DEFAULT_NEW_TOKENS, self.model.context_length - prompt_length))

    def decode(self, tokens: Tensor) -> list[str]:
        """(N, T) ids -> texts, without special tokens."""
        return codec.decode_texts(self.tokenizer, tokens.tolist())

    def write(self, items: Sequence[str], folder: Path) -> list[Path]:
        """One UTF-8 .txt file a text, named by number."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:04d}.txt" for number in range(1, len(items) + 1)]
        for path, item in zip(paths, items, strict=True):
            path.write_text(item + "\n", encoding="utf-8", newline="\n")
        return paths

    def assemble(self, prompts: Sequence[Tensor], completions: Tensor) -> list[str]:
        """Prompts (P,) each and completions (B, S) -> the continuations alone, as they read after their prompts."""
        starts = [self.decode(prompt[None])[0] for prompt in prompts]
        wholes = [
            self.decode(torch.cat([prompt.cpu(), completion])[None])[0]
            for prompt, completion in zip(prompts, completions.cpu(), strict=True)
        ]
        alone = self.decode(completions)
        return [
            whole[len(start) :] if whole.startswith(start) else rest  # a character may lie across the border
            for start, whole, rest in zip(starts, wholes, alone, strict=True)
        ]

    def compare(self, prompts: Tensor, columns: dict[str, Tensor]) -> str:
        """Prompts (N, P) and completions (N, S) by title -> an HTML table, one row an example.

        Everything is escaped; 4-grams of words that a completion repeats are marked.
        """
        rows = list(prompts)
        texts = {title: self.assemble(rows, completions) for title, completions in columns.items()}
        return page.comparison_table(self.decode(prompts), texts)

    def measures(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Nothing: what needs the texts themselves is in `yardstick`."""
        return {}

    def yardstick(self, training: Tensor, originals: Tensor) -> TextYardstick:
        """BLEU against the training texts (N, T) and among completions, MAUVE against the originals (M, T)."""
        return TextYardstick(self.model, self.decode, training, originals)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Model and tokenizer into `folder`, as `AutoModelForCausalLM.from_pretrained` reads them."""
        base.save_causal(self.model.causal, folder, dtype)
        self.tokenizer.save_pretrained(folder)

    # How documents become sequences.

    def _packed(self, items: Sequence[str]) -> Tensor:
        separator = [] if self.end_token is None else [self.end_token]
        pieces = [np.asarray(separator, dtype=np.int64)]
        for ids in codec.tokenize(self.tokenizer, items, special=False):
            pieces.append(np.asarray(ids + separator, dtype=np.int64))
        stream = torch.from_numpy(np.concatenate(pieces))
        length = self.sequence_length
        if len(stream) < length:
            raise InputError(
                f"--sequence-length {length}: all {len(items)} texts together have only {len(stream)} tokens"
            )
        return stream[: len(stream) // length * length].view(-1, length)

    def _chosen(self, items: Sequence[str], count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        windows: list[Tensor] = []
        for found in self._windows(_shuffled(items, generator)):
            windows.extend(found)
            if len(windows) >= CANDIDATES_PER_SEQUENCE * count:
                break
        if len(windows) < count:
            raise InputError(
                f"--num-samples {count}: only {len(windows)} sequences of {self.sequence_length} tokens "
                f"qualify in {len(items)} texts; lower it or give more text"
            )
        return torch.stack([windows[index] for index in torch.randperm(len(windows), generator=generator)[:count]])

    def _windows(self, documents: Iterator[str]) -> Iterator[Tensor]:
        """Each document's windows (n, T), with the tokenizer's own special tokens around the document."""
        length = self.sequence_length
        for ids in codec.tokenize(self.tokenizer, documents, special=True):
            whole = len(ids) // length * length
            yield torch.from_numpy(np.asarray(ids[:whole], dtype=np.int64)).view(-1, length)

    def _require_context(self) -> None:
        length, context = self.sequence_length, self.model.context_length
        if length > context:
            raise InputError(f"--sequence-length {length}: the model's context is {context} tokens")

    def _require_known(self, tokens: Tensor) -> Tensor:
        if tokens.numel() and int(tokens.max()) >= self.model.num_tokens:
            piece = self.tokenizer.convert_ids_to_tokens(int(tokens.max()))
            raise InputError(f"a text contains {piece!r}, which the model's {self.model.num_tokens} ids do not include")
        return tokens


def _check_text(item: Any, number: int | None) -> None:
    which = "prompt" if number is None else f"prompt {number}"
    if not isinstance(item, str):
        raise InputError(f"{which}: is of type {type(item).__name__}; a text is needed")
    try:
        item.encode("utf-8")
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8 arrive like this
        raise InputError(f"{which}: is not text that UTF-8 can write") from None


def _shuffled(items: Sequence[str], generator: torch.Generator) -> Iterator[str]:
    """The items in an order that `generator` draws; each is looked up when its turn comes."""
    for index in torch.randperm(len(items), generator=generator).tolist():
        yield items[index]


def _end_token(model: TextModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The tokenizer's end token, else the first that the model's configuration names."""
    if tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id
    named = getattr(text_config(model.causal), "eos_token_id", None)
    return named[0] if isinstance(named, list) else named
