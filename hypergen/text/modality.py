"""Convert texts to ids and back: a tokenizer and a causal language model as one `hypergen.modality.Modality`.

Shape letters: N sequences, M originals, B batch, T tokens, P prompt, S completion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypergen.config import fill
from hypergen.errors import InputError
from hypergen.modality import Encoded, Modality, TokenModel
from hypergen.text.chat_template import user_turn
from hypergen.text.checkpoint import save_causal
from hypergen.text.comparison_table import TextFigure, comparison_table
from hypergen.text.config import NAME, PAPER_RECIPE, Settings
from hypergen.text.conversations import Example
from hypergen.text.introspection import text_config
from hypergen.text.known_words import known_words
from hypergen.text.metrics import TextReferenceMetrics
from hypergen.text.model import TextModel
from hypergen.text.padded_rows import RowEncoder, drawn_rows, example_prompt, held_out_rows
from hypergen.text.sequences import beginnings_first, drawn_windows, packed_stream
from hypergen.text.tokenizer import begin_once, decode_texts, prefix_ids, tokenize
from hypergen.text.word_list import NO_LIST, WordList

DEFAULT_NEW_TOKENS = 256
COMPARED_TOKENS = 96  # of a compared completion: TTR is over 96 tokens in arXiv 2412.04318


@final
class TextModality:
    """Convert documents (str) to ids and back, and hold the model over them; see `modality.Modality`."""

    name = NAME

    def __init__(
        self,
        model: TextModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Settings,
        *,
        word_list: WordList | None = None,
        processor_files: Mapping[str, bytes] | None = None,
    ):
        """Join a model, its codec, and what else belongs to them.

        Args:
            model: over the tokenizer's ids.
            tokenizer: encodes and decodes.
            settings: the adapter's own.
            word_list: that of the base, where it has one.
            processor_files: content of the files by name that a saved model has besides, for its multimodal class.
        """
        self.model = model
        self.processor_files = processor_files or {}
        self.tokenizer = tokenizer
        self.settings: Settings = fill(settings, PAPER_RECIPE)
        assert self.settings.sequence_length is not None  # the recipe has one
        self.sequence_length = self.settings.sequence_length
        self.end_tokens: tuple[int, ...] = _end_tokens(model, tokenizer)
        self._word_list = word_list
        self._prefix = prefix_ids(tokenizer)
        self._separator = list(self.end_tokens[:1]) if settings.pack else None

    def with_settings(self, settings: Settings) -> TextModality:
        """Combine the same tokenizer and model with other settings."""
        return self._with(self.model, settings)

    def with_model(self, model: TokenModel) -> TextModality:
        """Combine the same tokenizer and settings with another model."""
        assert isinstance(model, TextModel)
        return self._with(model, self.settings)

    def _with(self, model: TextModel, settings: Settings) -> TextModality:
        """Combine the tokenizer and what belongs to it with another model or other settings."""
        return TextModality(
            model, self.tokenizer, settings, word_list=self._word_list, processor_files=self.processor_files
        )

    def is_item(self, value: object) -> bool:
        """Tell one text or example from a collection of several."""
        return isinstance(value, str | Example)

    def encode(self, items: Sequence[str]) -> Tensor:
        """Encode documents: -> (N, T) int64 ids, T = `sequence_length`.

        All of them are one packed stream, the end token before, between and after the documents, cut into sequences;
        the remainder is dropped.

        Raises:
            InputError: too few tokens, sequences longer than the context, or ids that the model lacks.
        """
        self._require_context()
        return self._require_known(packed_stream(self.tokenizer, items, self.sequence_length, self._end_token))

    def encode_training(self, items: Sequence[str | Example], count: int, seed: int = 0) -> Encoded:
        """Encode documents or examples: -> `count` sequences (N, T), T = `sequence_length`.

        Documents are read in an order drawn with `seed`, each is cut into windows that do not overlap (with the setting
        `pack`, all that are read are one stream), and `count` of those windows are drawn with `seed`. Examples, and
        with the setting `pad` the windows of texts, are padded rows with a loss mask.

        Raises:
            InputError: too few tokens, texts and examples together, a conversation without a chat template, or as
                `encode`.
        """
        self._require_context()
        if self._are_padded(items):
            return self._known(drawn_rows(self._row_encoder, items, count=count, seed=seed))
        return self._known(
            Encoded(
                drawn_windows(
                    self.tokenizer, items, self.sequence_length, count=count, seed=seed, separator=self._separator
                )
            )
        )

    def encode_held_out(self, items: Sequence[str | Example], count: int, seed: int = 0) -> Encoded:
        """Encode at most `count` sequences (N, T) of held-out documents or examples, in an order drawn with `seed`.

        The beginning of every document comes first, then, where that is not enough, their later windows. Documents
        shorter than T are skipped, or with the setting `pack` joined. Padded rows are one an item.

        Raises:
            InputError: no document is long enough, or as `encode_training`.
        """
        self._require_context()
        if self._are_padded(items):
            room = min(COMPARED_TOKENS, self.sequence_length // 2)
            most = min(self.sequence_length - 1, self.model.context_length - room)
            prompt = self.settings.prompt_length
            return self._known(
                held_out_rows(self._row_encoder, items, count=count, seed=seed, prompt_length=prompt, most=most)
            )
        return self._known(
            Encoded(
                beginnings_first(
                    self.tokenizer, items, self.sequence_length, count=count, seed=seed, separator=self._separator
                )
            )
        )

    def _are_padded(self, items: Sequence[str | Example]) -> bool:
        """Tell whether items become padded rows: examples, or texts with the setting `pad`."""
        are_examples = len(items) > 0 and isinstance(items[0], Example)
        if are_examples and self.settings.pack:
            raise InputError("--pack: joins texts; rows of messages or of a prompt and its completion are padded")
        return are_examples or self.settings.pad

    @property
    def _row_encoder(self) -> RowEncoder:
        return RowEncoder(
            tokenizer=self.tokenizer,
            length=self.sequence_length,
            end_token=self._end_token,
            takes_texts=self.settings.pad,
        )

    def add_start_tokens(self, prompt: Tensor) -> Tensor:
        """Put the tokenizer's start token (BOS), if it uses one, in front: (B, P) ids, P >= 0 -> (B, P') ids, P' >= 1.

        Raises:
            InputError: the prompt is empty and the tokenizer has neither a start (BOS) nor an end token to start from.
        """
        prefix = self._prefix
        if not prefix and prompt.shape[1] == 0:
            first = self._end_token if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
            if first is None:
                raise InputError("an empty prompt needs a tokenizer with a begin or end token; this one has neither")
            prefix = [first]
        return torch.cat([prompt.new_tensor(prefix).expand(len(prompt), -1), prompt], 1)

    def encode_prompt(self, item: str | Example, number: int | None = None) -> Tensor:
        """Encode a prompt, possibly empty: -> (P,) int64 ids, with exactly one start token, whoever wrote it.

        With the setting `chat` a text is a user's turn. An example is continued from its first token to learn.

        Args:
            item: the text or example.
            number: its place among several, for messages.

        Raises:
            InputError: it fills the whole context, or has ids that the model lacks, or there is no chat template.
        """
        prompt = (
            example_prompt(self._row_encoder, item) if isinstance(item, Example) else self._text_prompt(item, number)
        )
        if not len(prompt):
            prompt = self.add_start_tokens(torch.empty(1, 0).long())[0]
        context = self.model.context_length
        if len(prompt) >= context:
            which = "prompt" if number is None else f"prompt {number}"
            raise InputError(
                f"{which}: {len(prompt)} tokens; the context of {context} leaves room for at most {context - 1}"
            )
        return self._require_known(prompt)

    def _text_prompt(self, item: str, number: int | None) -> Tensor:
        _check_text(item, number)
        text = user_turn(self.tokenizer, item) if self.settings.chat else item
        ids = begin_once(next(tokenize(self.tokenizer, [text], special=False)), self._prefix)
        return torch.tensor(ids, dtype=torch.long)

    def prompts(self, tokens: Tensor) -> Tensor:
        """Cut the prompts off encoded tokens: (N, T) -> (N, P), their first `prompt_length` ids."""
        length = self.settings.prompt_length
        if length >= tokens.shape[1]:
            raise InputError(f"--prompt-length {length}: must be below the {tokens.shape[1]} tokens of a sequence")
        return tokens[:, :length]

    def max_new_tokens(self, prompt_length: int) -> int:
        """Choose 256, or as many as the context leaves."""
        return max(0, min(DEFAULT_NEW_TOKENS, self.model.context_length - prompt_length))

    def num_compared_tokens(self, num_left: int) -> int:
        """Choose 96, or as many as are left."""
        return min(COMPARED_TOKENS, num_left)

    def decode(self, tokens: Tensor) -> list[str]:
        """Decode (N, T) ids into texts, without special tokens."""
        return decode_texts(self.tokenizer, tokens.tolist())

    def as_text(self, item: str) -> str:
        """Return the text itself."""
        return item

    def write(self, items: Sequence[str], folder: Path) -> list[Path]:
        """Write one UTF-8 .txt file a text, named by number."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:04d}.txt" for number in range(1, len(items) + 1)]
        for path, item in zip(paths, items, strict=True):
            path.write_text(item + "\n", encoding="utf-8", newline="\n")
        return paths

    def render(self, prompts: Sequence[Tensor], completions: Tensor) -> list[str]:
        """Decode prompts (P,) each and completions (B, S) into the continuations, as they read after their prompts."""
        starts = decode_texts(self.tokenizer, [prompt.tolist() for prompt in prompts])
        rows = [self._without_end(row) for row in completions.tolist()]
        wholes = decode_texts(
            self.tokenizer, [prompt.tolist() + row for prompt, row in zip(prompts, rows, strict=True)]
        )
        alone = decode_texts(self.tokenizer, rows)
        return [
            whole[len(start) :] if whole.startswith(start) else rest  # a character may lie across the border
            for start, whole, rest in zip(starts, wholes, alone, strict=True)
        ]

    def _without_end(self, row: list[int]) -> list[int]:
        """Cut end tokens off the end of a completion; not every tokenizer knows that they are special."""
        length = next((place for place in range(len(row), 0, -1) if row[place - 1] not in self.end_tokens), 0)
        return row[:length]

    def comparison_figure(
        self,
        prompts: Sequence[Tensor],
        columns: Mapping[str, Tensor],
        recited: Mapping[str, Collection[int]] | None = None,
    ) -> TextFigure:
        """Draw N prompts (P,) and completions (N, S) by title as an HTML table, one row an example.

        Everything is escaped; 4-grams of words that a completion repeats are marked, those that are recited framed.
        """
        rows = list(prompts)
        texts = {title: self.render(rows, completions) for title, completions in columns.items()}
        return TextFigure(comparison_table([self.decode(prompt[None])[0] for prompt in rows], texts, recited or {}))

    def metrics(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Compute `known_words` (B,) where the base has a word list; the others are in `reference_metrics`."""
        if self._word_list is None:
            return {}
        texts = self.render(list(prompts), completions)
        return {"known_words": known_words(texts, self._word_list.words, self.decode(prompts))}

    def reference_metrics(self, training: Tensor, originals: Tensor) -> TextReferenceMetrics:
        """Prepare BLEU among completions and against the training (N, T), and MAUVE against the originals (M, T)."""
        note = NO_LIST if self._word_list is None else self._word_list.describe()
        return TextReferenceMetrics(self.model, self.decode, training, originals, known_words=note)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write model and tokenizer into `folder`, as `AutoModelForCausalLM.from_pretrained` reads them."""
        save_causal(self.model.causal, folder, dtype)
        self.tokenizer.save_pretrained(folder)
        for name, content in self.processor_files.items():
            (folder / name).write_bytes(content)

    @property
    def _end_token(self) -> int | None:
        """The one that stands between two documents; None where there is none."""
        return self.end_tokens[0] if self.end_tokens else None

    def _require_context(self) -> None:
        length, context = self.sequence_length, self.model.context_length
        if length > context:
            raise InputError(f"--sequence-length {length}: the model's context is {context} tokens")

    def _known(self, sequences: Encoded) -> Encoded:
        self._require_known(sequences.tokens)
        return sequences

    def _require_known(self, tokens: Tensor) -> Tensor:
        if tokens.numel() and int(tokens.max()) >= self.model.num_tokens:
            piece = self.tokenizer.convert_ids_to_tokens(int(tokens.max()))
            raise InputError(f"a text contains {piece!r}, which the model's {self.model.num_tokens} ids do not include")
        return tokens


def _check_text(item: object, number: int | None) -> None:
    which = "prompt" if number is None else f"prompt {number}"
    if not isinstance(item, str):
        raise InputError(f"{which}: is of type {type(item).__name__}; a text is needed")
    try:
        item.encode("utf-8")
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8 arrive like this
        raise InputError(f"{which}: is not text that UTF-8 can write") from None


def _end_tokens(model: TextModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """List the end tokens: the tokenizer's, then each that generation settings or configuration name.

    What a configuration has only because its class has it as default does not count beside generation settings.
    """
    config = text_config(model.causal)
    named = [tokenizer.eos_token_id, *_ids(getattr(model.causal.generation_config, "eos_token_id", None))]
    own = getattr(config, "eos_token_id", None)
    if named[1:] == [] or own != getattr(type(config), "eos_token_id", None):
        named += _ids(own)
    return tuple(dict.fromkeys(one for one in named if one is not None and 0 <= one < model.num_tokens))


def _ids(value: int | list[int] | None) -> list[int]:
    """Make a list of what names one id, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


if TYPE_CHECKING:  # mypy checks the contract
    _modality: type[Modality] = TextModality
