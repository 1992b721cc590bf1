"""Wrap any causal language model of transformers as a `TokenModel`: ids to logits, by sequence or token by token.

At construction one tiny batch checks that `head(hidden(ids))` gives the model's own logits and that decoding with a
cache gives the same; where an architecture does something else, the wrapper falls back to a slower way that is right.
Small models of common families decode through packed weights (`packing`), checked in the same way.

Shape letters: B batch, T tokens, P prompt, V vocabulary, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hypergen.errors import InputError
from hypergen.kernels.packed_decoder import PackedDecoder
from hypergen.kernels.packed_model import PackedCache, PackedModel
from hypergen.modality import TokenModel
from hypergen.runtime.console import warn_once
from hypergen.runtime.evaluation_mode import evaluating
from hypergen.text import introspection
from hypergen.text.attention import use_causal_attention
from hypergen.text.kv_cache import PrefixCache, new_cache
from hypergen.text.offload import is_offloaded
from hypergen.text.packing import pack_weights
from hypergen.text.rotary import forget_longest_sequences, rotary_lengths
from hypergen.text.truncation import input_of, replaced_input, skipped
from hypergen.training.parameters import check_last_layers

PROBE_LENGTH = 8
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # between two ways to the same numbers, relative to the largest
TOLERANCE_16_BIT = 3e-2
CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")  # of a forward; architectures differ


class TextModel(nn.Module):
    """Wrap `causal`, any `AutoModelForCausalLM`, as a `modality.TokenModel`.

    Where the head is not the output embedding with scaling or soft cap, `hidden` gives full logits and `head` is the
    identity: right for every architecture, at the price of (B, T, V) numbers.
    """

    def __init__(self, causal: PreTrainedModel):
        super().__init__()
        self.causal = causal
        introspection.disable_randomness(causal)
        introspection.silence_padding_warning(causal)
        use_causal_attention(causal)
        forget_longest_sequences(causal)
        self.offloaded = is_offloaded(causal)
        self._rotary = rotary_lengths(introspection.text_config(causal))
        self.context_length = introspection.context_length(introspection.text_config(causal))
        self._transform_logits = introspection.logit_transform(causal)
        self._checked_cuts: set[int] = set()
        self._packed = PackedDecoder(warn_once)
        with torch.no_grad(), evaluating(self):
            self._inspect()

    def _inspect(self) -> None:
        """Find the parts, and check on a tiny batch the assumptions of the faster ways.

        Raises:
            InputError: the model looks at later tokens, so it does not predict the next one.
        """
        probe = self._probe()
        logits = self.causal(input_ids=probe, use_cache=False).logits
        self.num_tokens = logits.shape[-1]
        # 1. The head: the output embedding and its transform, or unknown.
        self._full_logits = False
        self._full_logits = not self._agrees(logits, lambda: self.forward(probe))
        # 2. The blocks, and the arguments of a forward.
        self._layout = introspection.inspect_model(self.causal, lambda: self.hidden(probe))
        entry = self.causal if self._full_logits else introspection.body(self.causal)
        arguments = inspect.signature(entry.forward).parameters
        self._takes_positions = "position_ids" in arguments
        self._cache_argument = next((name for name in CACHE_ARGUMENTS if name in arguments), None)
        # 3. Decoding with a cache. Where that gives other logits, either the cache or the model is of another kind.
        if not self._agrees(logits[:, -1], lambda: self._step_unpacked(probe)):
            self._cache_argument = None
            if not self._agrees(logits[:, :-1], lambda: self.forward(probe[:, :-1])):
                raise InputError(f"{self._architecture}: is not a causal language model, it looks at later tokens")

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Transformer blocks, in order; empty where the architecture has no list of them."""
        name = self._layout.blocks
        return () if name is None else list(self.causal.get_submodule(name).children())

    @property
    def final_modules(self) -> Sequence[nn.Module]:
        """Modules with weights that follow the last block: final norm, and the head where it is not tied."""
        return [self.causal.get_submodule(name) for name in self._layout.final_modules]

    @property
    def supports_left_padding(self) -> bool:
        """Support for padded prompts in `prefill`, which packed weights have."""
        return self._packed_model() is not None

    def train(self, mode: bool = True) -> TextModel:
        """Set the mode; training drops the packed weights, which would be outdated at once."""
        if mode:
            self._packed.drop()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextModel:
        """Move or convert the model, without the weights that are in files."""
        return super()._apply(lambda weight: weight if weight.is_meta else fn(weight), recurse)

    # Whole sequences.

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits: (B, T) ids -> (B, T, V)."""
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute the last hidden states: (B, T) ids -> (B, T, D)."""
        return self._run(input_ids=tokens, use_cache=False)

    def head(self, hidden: Tensor) -> Tensor:
        """Compute logits: (..., D) -> (..., V)."""
        return hidden if self._full_logits else self._transform_logits(self.causal.get_output_embeddings()(hidden))

    def _run(self, **inputs: Any) -> Tensor:
        """Run the model: -> (B, T, D), or (B, T, V) where the head cannot be told apart."""
        if self._full_logits:
            return self.causal(**inputs).logits
        return introspection.body(self.causal)(**inputs).last_hidden_state

    # Token by token.

    @torch.no_grad()
    def prefill(
        self, prompt: Tensor, max_new_tokens: int, num_padding: Tensor | None = None, *, native: bool = False
    ) -> tuple[Tensor, PackedCache | PrefixCache]:
        """Compute the prompt; see `modality.Decoder`. Weights are packed now if they can be and have changed."""
        if (packed := self._packed_model(native)) is not None:
            return packed.prefill(prompt, prompt.shape[1] + max_new_tokens, num_padding, native=native)
        if num_padding is not None:
            raise InputError(f"{self._architecture}: cannot start from padded prompts")
        return self._prefill(prompt, max_new_tokens)

    @torch.no_grad()
    def decode_step(
        self, token: Tensor, kv_cache: PackedCache | PrefixCache
    ) -> tuple[Tensor, PackedCache | PrefixCache]:
        """Decode one token: (B,) ids -> logits (B, V) of the token after it, and the longer cache."""
        if isinstance(kv_cache, PackedCache):
            return self._packed.decode_step(token, kv_cache)
        return self._advance(token[:, None], kv_cache)

    def select_rows(self, kv_cache: PackedCache | PrefixCache, rows: Tensor) -> PackedCache | PrefixCache:
        """Keep these rows (B',) of a cache, repeats allowed."""
        if isinstance(kv_cache, PackedCache):
            return self._packed.select_rows(kv_cache, rows)
        return kv_cache.select_rows(rows)

    def _prefill(self, prompt: Tensor, max_new_tokens: int) -> tuple[Tensor, PrefixCache]:
        """Compute the prompt the model's own way."""
        capacity = prompt.shape[1] + max_new_tokens
        layers = None if self._cache_argument is None else new_cache(self.causal.config, capacity)
        keeps_ids = layers is None or self._rotary.change
        return self._advance(prompt, PrefixCache(0, layers, prompt[:, :0] if keeps_ids else None))

    def _advance(self, tokens: Tensor, kv_cache: PrefixCache) -> tuple[Tensor, PrefixCache]:
        """Compute further ids (B, l): -> logits (B, V) after the last of them, and the longer cache."""
        length, layers, prefix = kv_cache.length + tokens.shape[1], kv_cache.layers, kv_cache.prefix
        prefix = None if prefix is None else torch.cat([prefix, tokens], 1)
        if prefix is not None and (layers is None or self._rotary.are_new(length)):
            return self.head(self.hidden(prefix)[:, -1]), PrefixCache(length, None, prefix)
        first = kv_cache.length
        if prefix is not None and first and self._rotary.changed(first, length):  # every key is another one now
            tokens, layers, first = prefix, new_cache(self.causal.config, 2 * length), 0
        inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": True, str(self._cache_argument): layers}
        if self._takes_positions:
            positions = torch.arange(first, length, device=tokens.device)
            inputs["position_ids"] = positions.expand(len(tokens), -1)
        return self.head(self._run(**inputs)[:, -1]), PrefixCache(length, layers, prefix)

    def _step_unpacked(self, tokens: Tensor) -> Tensor:
        """Compute logits (2, V) after (2, T) ids the model's own way; see `_exchanged_step`."""
        return _exchanged_step(tokens, lambda prompt: self._prefill(prompt, 1), self.decode_step, self.select_rows)

    def _packed_model(self, native: bool = False) -> PackedModel | None:
        """Return the packed weights; None where the model has none."""
        if self.offloaded:  # a copy would hold all of it
            return None
        return self._packed.get(self, self._pack_checked, native=native)

    @torch.no_grad()
    def _pack_checked(self) -> PackedModel | None:
        """Pack the weights as they are now; None where that does not give this model's logits."""
        packed = pack_weights(self.causal)
        if packed is None:
            return None
        probe = self._probe()

        def step() -> Tensor:
            return _exchanged_step(
                probe, lambda prompt: packed.prefill(prompt, probe.shape[1]), packed.decode_step, packed.select_rows
            )

        return packed if self._agrees(self.forward(probe)[:, -1], step) else None

    # The last blocks alone.

    def hidden_before(self, tokens: Tensor, num_last: int) -> Tensor:
        """Compute the input of the last `num_last` blocks, which do not run: (B, T) ids -> (B, T, D).

        Raises:
            InputError: this architecture cannot continue from there, or has fewer blocks.
        """
        self._check_cut(num_last)
        return self._run_until(num_last, input_ids=tokens)

    def forward_from(self, hidden: Tensor, num_last: int, until: int = 0) -> Tensor:
        """Continue from `hidden_before`: (B, T, D) -> (B, T, D). Masks and positions are the model's own.

        Args:
            hidden: the input of the last `num_last` blocks.
            num_last: how many blocks that are.
            until: above 0, stop before the last `until` blocks.

        Raises:
            InputError: as `hidden_before`.
        """
        self._check_cut(num_last)
        return self._run_from(hidden, num_last, until)

    def cache_stages(self, num_last: int) -> Sequence[int]:
        """List every cut down to `num_last` where blocks are read from files, so that each is read once; else that."""
        return range(len(self.blocks) - 1, num_last - 1, -1) if self.offloaded else (num_last,)

    def _run_until(self, until: int, **inputs: Any) -> Tensor:
        """Compute the input of the last `until` blocks, (B, T, D); 0: run to the end."""
        if until == 0:
            return self._run(**inputs, use_cache=False)
        hidden = input_of(self.blocks[-until], lambda: self._run(**inputs, use_cache=False))
        if hidden is None:
            raise self._cannot_cut(until)
        return hidden

    def _run_from(self, hidden: Tensor, num_last: int, until: int) -> Tensor:
        blocks, embedding = self.blocks, cast(nn.Embedding, self.causal.get_input_embeddings())
        ignored = hidden.new_zeros(*hidden.shape[:2], embedding.weight.shape[1])  # only its shape matters
        with replaced_input(blocks[-num_last], hidden), skipped(blocks[:-num_last], self._layout.block_outputs):
            return self._run_until(until, inputs_embeds=ignored)

    def _check_cut(self, num_last: int) -> None:
        """Require, once for each cut, that the truncated forward gives the result of the full one.

        Blocks in files are read rarely: there, all cuts are looked at together, one block after the other.
        """
        if num_last in self._checked_cuts:
            return
        if num_last < 1:
            raise InputError(f"--last-layers {num_last}: there is no block to continue from; 1 or more are needed")
        check_last_layers(self, num_last)
        probe, cuts = self._probe(), range(len(self.blocks), 0, -1) if self.offloaded else (num_last,)
        with torch.no_grad():
            try:
                truncated = self._run_until(cuts[0], input_ids=probe)
                for cut, until in pairwise([*cuts, 0]):
                    truncated = self._run_from(truncated, cut, until)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever this architecture needs from the blocks below
                raise self._cannot_cut(num_last) from error
            if not _is_close(truncated, self.hidden(probe)):
                raise self._cannot_cut(num_last)
        self._checked_cuts.update(cuts)

    def _cannot_cut(self, num_last: int) -> InputError:
        return InputError(f"--last-layers {num_last}: {self._architecture} cannot run its last blocks alone")

    # Checks on a tiny batch.

    @property
    def _architecture(self) -> str:
        return type(self.causal).__name__

    def _probe(self) -> Tensor:
        """Make (2, T) ids that any vocabulary has."""
        embedding = cast(nn.Embedding, self.causal.get_input_embeddings())
        ids = torch.arange(min(PROBE_LENGTH, self.context_length), device=next(self.parameters()).device)
        return torch.stack([ids, ids.flip(0)]) % embedding.weight.shape[0]

    def _agrees(self, logits: Tensor, other: Callable[[], Tensor]) -> bool:
        """Tell whether another way gives these logits; a way that raises an error does not."""
        try:
            return _is_close(other(), logits)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever this architecture does instead
            return False


def _exchanged_step(
    tokens: Tensor,
    prefill: Callable[[Tensor], tuple[Tensor, Any]],
    decode_step: Callable[[Tensor, Any], tuple[Tensor, Any]],
    select_rows: Callable[[Any, Tensor], Any],
) -> Tensor:
    """Compute logits (2, V) after (2, T) ids, the last of them as a step, with the rows exchanged on the way."""
    exchanged = torch.tensor([1, 0], device=tokens.device)
    _, kv_cache = prefill(tokens[exchanged, :-1])
    return decode_step(tokens[:, -1], select_rows(kv_cache, exchanged))[0]


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Compare up to rounding, relative to the largest number."""
    tolerance = TOLERANCE.get(other.dtype, TOLERANCE_16_BIT)
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())


if TYPE_CHECKING:  # mypy checks the contract
    _token_model: type[TokenModel] = TextModel
