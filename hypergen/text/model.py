"""Any causal language model of transformers as the core sees it: ids to logits, whole or token by token.

At attachment one tiny batch checks that `head(hidden(ids))` gives the model's own logits and that cached decoding
gives the same; where an architecture does something else, the wrapper falls back to what is right but slower. Small
models of common families decode through a packed copy (`lean`), checked in the same way.
Does not know: texts, tokenizers, files, training.

Shape letters: B batch, T tokens, P prompt, V vocabulary, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from hypergen.errors import InputError
from hypergen.forwards import changed_forwards
from hypergen.lean import LeanModel, LeanState, weights_version
from hypergen.native import with_native_step
from hypergen.text import anatomy, attention, lean
from hypergen.text.cache import new_cache, select_rows
from hypergen.text.offload import is_offloaded

PROBE_LENGTH = 8
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # between two ways to the same numbers, relative to the largest
TOLERANCE_16_BIT = 3e-2


@dataclass(frozen=True)
class PrefixState:
    """What decoding remembers. A step uses a state up; `select` leaves it as it was."""

    length: int
    """Tokens seen so far."""
    cache: DynamicCache | None
    """Keys and values of the prefix; None where the architecture keeps none that can be used."""
    prefix: Tensor | None
    """(B, length) ids, only where there is no cache: these architectures compute the prefix again."""


class TextModel(nn.Module):
    """Any `AutoModelForCausalLM` as a TokenModel (see `hypergen.modality`); `causal` is the model itself.

    Where the head is not the output embedding with scaling or soft cap, `hidden` gives full logits and `head` is the
    identity: right for every architecture, at the price of (B, T, V) numbers.
    """

    def __init__(self, causal: PreTrainedModel):
        super().__init__()
        self.causal = causal
        anatomy.disable_randomness(causal)
        anatomy.silence_padding_warning(causal)
        attention.use(causal)
        self.offloaded = is_offloaded(causal)
        self.context_length = anatomy.context_length(anatomy.text_config(causal))
        self._finish = anatomy.finish(causal)
        self._sound_cuts: set[int] = set()
        self._packed: tuple[Any, LeanModel | None] | None = None
        self._wants_native = False
        self._attach()

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks, in order; empty where the architecture has no list of them."""
        name = self._anatomy.blocks
        return () if name is None else list(self.causal.get_submodule(name).children())

    @property
    def tail(self) -> list[nn.Module]:
        """What has weights and follows the last block: final norm, and the head where it is not tied."""
        return [self.causal.get_submodule(name) for name in self._anatomy.tail]

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        return self._run(input_ids=tokens, use_cache=False)

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits."""
        return hidden if self._full_logits else self._finish(self.causal.get_output_embeddings()(hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, V) logits."""
        return self.head(self.hidden(tokens))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextModel:
        """What moves or converts the model passes over weights that are in files."""
        return super()._apply(lambda weight: weight if weight.is_meta else fn(weight), recurse)

    def train(self, mode: bool = True) -> TextModel:
        """Training mode drops the packed copy."""
        self._packed = None if mode else self._packed
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """A copy packs its weights itself: layouts of oneDNN cannot be copied."""
        return vars(self) | {"_packed": None}

    @property
    def takes_padding(self) -> bool:
        """Whether `start` takes padded prompts."""
        return self._lean() is not None

    @torch.no_grad()
    def start(self, prompt: Tensor, max_new_tokens: int, pads: Tensor | None = None) -> tuple[Tensor, Any]:
        """(B, P) ids, P >= 1, the first `pads` (B,) of each row padding -> logits (B, V) of the next token, a state."""
        if (packed := self._lean()) is not None:
            return packed.start(prompt, prompt.shape[1] + max_new_tokens, pads)
        if pads is not None:
            raise InputError(f"{self._architecture}: cannot start from padded prompts")
        return self._start(prompt, max_new_tokens)

    def _start(self, prompt: Tensor, max_new_tokens: int) -> tuple[Tensor, PrefixState]:
        if self._cache_argument is None:
            return self._advance(prompt, PrefixState(0, None, prompt[:, :0]))
        cache = new_cache(self.causal.config, capacity=prompt.shape[1] + max_new_tokens)
        return self._advance(prompt, PrefixState(0, cache, None))

    @torch.no_grad()
    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B,) ids -> logits (B, V) of the token after it, and the new state; the given one is used up."""
        if isinstance(state, LeanState):
            assert self._packed is not None and self._packed[1] is not None
            return self._packed[1].step(token, state)
        return self._advance(token[:, None], state)

    def use_native(self, wanted: bool) -> None:
        """Whether steps run in native code where that can be had (`native`)."""
        self._packed = self._packed if wanted == self._wants_native else None
        self._wants_native = wanted

    def select(self, state: Any, rows: Tensor) -> Any:
        """These rows (B',) of a state, repeats allowed."""
        if isinstance(state, LeanState):
            return LeanModel.select(state, rows)
        if state.prefix is not None:
            return replace(state, prefix=state.prefix[rows])
        assert state.cache is not None
        return replace(state, cache=select_rows(state.cache, rows))

    def boundary(self, tokens: Tensor, num_last: int) -> Tensor:
        """(B, T) ids -> (B, T, D), the input of the last `num_last` blocks; the blocks above do not run.

        Raises:
            InputError: this architecture cannot continue from there, or has fewer blocks.
        """
        self._require_sound_cut(num_last)
        return self._boundary(tokens, num_last)

    def from_boundary(self, hidden: Tensor, num_last: int, stop: int = 0) -> Tensor:
        """(B, T, D) from `boundary` -> (B, T, D), what `hidden` gives; the input of the last `stop` blocks where that
        is not 0. Masks and positions are the model's own.

        Raises:
            InputError: as `boundary`.
        """
        self._require_sound_cut(num_last)
        return self._from_boundary(hidden, num_last, stop)

    # How it is done.

    @torch.no_grad()
    def _lean(self) -> LeanModel | None:
        """The packed copy of the weights as they are now; None where packing does not give this model's logits."""
        if self.offloaded:  # a copy would hold all of it
            return None
        version = weights_version(self.causal)
        if self._packed is None or self._packed[0] != version:
            packed = lean.pack(self.causal)
            self._packed = version, packed
            probe = self._probe()
            if packed is not None and not self._agrees(self.forward(probe)[:, -1], lambda: self._stepped(probe)):
                self._packed = version, None
            elif packed is not None and self._wants_native:
                self._packed = version, with_native_step(packed)
        return self._packed[1]

    def _run(self, **inputs: Any) -> Tensor:
        """(B, T, D), or (B, T, V) where the head cannot be told apart."""
        if self._full_logits:
            return self.causal(**inputs).logits
        return anatomy.body(self.causal)(**inputs).last_hidden_state

    def _advance(self, tokens: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """(B, l) further ids -> logits (B, V) after the last of them."""
        length = state.length + tokens.shape[1]
        if state.prefix is not None:
            prefix = torch.cat([state.prefix, tokens], 1)
            return self.head(self.hidden(prefix)[:, -1]), PrefixState(length, None, prefix)
        inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": True, str(self._cache_argument): state.cache}
        if self._takes_positions:
            positions = torch.arange(state.length, length, device=tokens.device)
            inputs["position_ids"] = positions.expand(len(tokens), -1)
        return self.head(self._run(**inputs)[:, -1]), replace(state, length=length)

    def _boundary(self, tokens: Tensor, num_last: int) -> Tensor:
        return self._until(num_last, input_ids=tokens)

    def _until(self, stop: int, **inputs: Any) -> Tensor:
        """(B, T, D), the input of the last `stop` blocks; 0: what the last one's becomes."""
        if stop == 0:
            return self._run(**inputs, use_cache=False)

        def reach(_block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            raise _ReachedError(args[0] if args else named["hidden_states"])

        handle = self.blocks[-stop].register_forward_pre_hook(reach, with_kwargs=True)
        try:
            self._run(**inputs, use_cache=False)
        except _ReachedError as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise self._cannot_cut(stop)

    def _from_boundary(self, hidden: Tensor, num_last: int, stop: int = 0) -> Tensor:
        def enter(_block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
            return ((hidden, *args[1:]), named) if args else (args, {**named, "hidden_states": hidden})

        blocks = self.blocks
        embedding: Any = self.causal.get_input_embeddings()
        width = embedding.weight.shape[1]
        handle = blocks[-num_last].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with _skipped(blocks[:-num_last], self._anatomy.block_outputs):
                return self._until(stop, inputs_embeds=hidden.new_zeros(*hidden.shape[:2], width))
        finally:
            handle.remove()

    def _require_sound_cut(self, num_last: int) -> None:
        """Once for each cut: the truncated forward must give what the full one gives.

        Blocks in files are read rarely: there, all cuts are looked at together, one block after the other.
        """
        if num_last in self._sound_cuts:
            return
        if not 1 <= num_last <= len(self.blocks):
            raise InputError(f"--last-layers {num_last}: {self._architecture} has {len(self.blocks)} blocks")
        probe, cuts = self._probe(), range(len(self.blocks), 0, -1) if self.offloaded else (num_last,)
        with torch.no_grad():
            try:
                truncated = self._boundary(probe, cuts[0])
                for cut, stop in pairwise([*cuts, 0]):
                    truncated = self._from_boundary(truncated, cut, stop)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever this architecture needs from the blocks below
                raise self._cannot_cut(num_last) from error
            if not _close(truncated, self.hidden(probe)):
                raise self._cannot_cut(num_last)
        self._sound_cuts.update(cuts)

    def _cannot_cut(self, num_last: int) -> InputError:
        return InputError(f"--last-layers {num_last}: {self._architecture} cannot run its last blocks alone")

    @property
    def _architecture(self) -> str:
        return type(self.causal).__name__

    def _probe(self) -> Tensor:
        """(2, T) ids that any vocabulary has."""
        embedding: Any = self.causal.get_input_embeddings()
        ids = torch.arange(min(PROBE_LENGTH, self.context_length), device=next(self.parameters()).device)
        return torch.stack([ids, ids.flip(0)]) % embedding.weight.shape[0]

    @torch.no_grad()
    def _attach(self) -> None:
        """Find the parts, and check on a tiny batch what the faster ways rely on.

        Raises:
            InputError: the model looks at later tokens, so it does not predict the next one.
        """
        was_training = self.training
        self.eval()
        probe = self._probe()
        logits = self.causal(input_ids=probe, use_cache=False).logits
        self.num_tokens = logits.shape[-1]
        self._full_logits = False
        self._full_logits = not self._agrees(logits, lambda: self.forward(probe))
        self._anatomy = anatomy.study(self.causal, lambda: self.hidden(probe))
        entry = inspect.signature((self.causal if self._full_logits else anatomy.body(self.causal)).forward).parameters
        self._takes_positions = "position_ids" in entry
        self._cache_argument = next(
            (name for name in ("cache", "past_key_values", "cache_params") if name in entry), None
        )
        self._packed = (
            weights_version(self.causal),
            None,
        )  # first the model's own way, which the packed one falls back to
        if not self._agrees(logits[:, -1], lambda: self._stepped(probe)):
            self._cache_argument = None
            if not self._agrees(logits[:, :-1], lambda: self.forward(probe[:, :-1])):
                raise InputError(f"{self._architecture}: is not a causal language model, it looks at later tokens")
        self._packed = None
        self.train(was_training)

    def _agrees(self, logits: Tensor, other: Callable[[], Tensor]) -> bool:
        """Whether another way gives these logits; a way that an architecture does not have does not."""
        try:
            return _close(other(), logits)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever this architecture does instead
            return False

    def _stepped(self, tokens: Tensor) -> Tensor:
        """(2, T) ids -> logits (2, V) after them, the last one as a step, with the rows exchanged on the way."""
        exchanged = torch.tensor([1, 0], device=tokens.device)
        _, state = self.start(tokens[exchanged, :-1], 1)
        return self.step(tokens[:, -1], self.select(state, exchanged))[0]


class _ReachedError(Exception):
    """Ends a forward pass at the block where it was to end."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden


@contextmanager
def _skipped(blocks: Sequence[nn.Module], num_outputs: int) -> Iterator[None]:
    """These blocks give back their input, in the form that a block returns, while all their attributes stay."""

    def unchanged(*args: Any, **named: Any) -> Any:
        hidden = args[0] if args else named["hidden_states"]
        return (hidden, *[None] * (num_outputs - 1)) if num_outputs else hidden

    with changed_forwards(blocks, lambda _: unchanged):
        yield


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding, relative to the largest number."""
    tolerance = TOLERANCE.get(other.dtype, TOLERANCE_16_BIT)
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())
