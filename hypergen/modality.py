"""The whole contract of an adapter: a codec (items <-> tokens) plus a model that maps ids to logits.

The core (training, decoding, measuring) sees only these two protocols and never learns what a token means. A third
modality is a package with `read`, `build` and `load` and one line in `registry`; `tests/toy` is one.
Does not know: text, pictures, files, or any library besides torch.

Shape letters: N items, B batch, T tokens, P prompt, S completion, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

Item = Any  # a raw example: str, PIL image, ...; only its adapter looks inside
State = Any  # what a model remembers of a prefix (its key-value cache); only its model looks inside


class TokenModel(Protocol):
    """An `nn.Module` over ids of one vocabulary. Every method takes and returns tensors on the module's device."""

    num_tokens: int  # V: ids run from 0 to V - 1
    context_length: int  # the most tokens that one sequence may have
    blocks: Sequence[nn.Module]  # the transformer's blocks, in order
    tail: Sequence[nn.Module]  # what follows the last block: final norm and, when not tied to the input, the head
    offloaded: bool  # whether blocks are read from files when they run: then all sequences pass one before the next
    takes_padding: bool  # whether `start` takes prompts of different lengths, padded on the left

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D), what `head` turns into logits."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) logits. Called on slices, so that (B, T, V) need never exist."""
        ...

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, V) logits: `head(hidden(tokens))`. Position t predicts token t + 1."""
        ...

    def start(self, prompt: Tensor, max_new_tokens: int, pads: Tensor | None = None) -> tuple[Tensor, State]:
        """(B, P) ids, P >= 1 -> logits (B, V) of the next token, and the state after the prompt.

        Args:
            pads: where `takes_padding`, how many ids at the beginning of each row are padding, (B,), each below P.
        """
        ...

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """(B,) ids -> logits (B, V) of the token after it, and the new state; the prefix is never recomputed."""
        ...

    def use_native(self, wanted: bool) -> None:
        """Whether steps run in native code where that can be had; elsewhere they stay as they are."""
        ...

    def select(self, state: State, rows: Tensor) -> State:
        """Keep these rows (indices (B',), repeats allowed) of a state."""
        ...

    def boundary(self, tokens: Tensor, num_last: int) -> Tensor:
        """(B, T) ids -> (B, T, D), the input of the last `num_last` blocks."""
        ...

    def from_boundary(self, hidden: Tensor, num_last: int, stop: int = 0) -> Tensor:
        """(B, T, D) from `boundary` -> (B, T, D), what `hidden` gives for the same ids; with `stop` above 0 what
        `boundary` gives for the last `stop` blocks, those not run."""
        ...


class Yardstick(Protocol):
    """Costlier numbers that need decoded items or an optional library; one whose library is missing is left out."""

    def measure(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Prompts (B, P), completions (B, S) -> name -> one value a completion (or original), or () for the set."""
        ...

    def notes(self, num_completions: int) -> dict[str, str]:
        """Name -> how it is computed from so many completions (signature, features, sizes), or why it is not."""
        ...


class Modality(Protocol):
    """A codec and its model. Final classes only; the adapter holds every setting it needs."""

    name: str
    model: Any  # a TokenModel that is an nn.Module
    settings: Any  # the adapter's own `Settings`
    sequence_length: int  # T of every encoded sequence
    end_token: int | None  # the id after which a completion is over; None where completions have a fixed length

    def encode(self, items: Sequence[Item], count: int | None = None, seed: int = 0) -> Tensor:
        """Items -> tokens (N, T) int64, start token included. With `count`: exactly that many sequences, chosen with
        `seed`, else InputError that names both numbers."""
        ...

    def examples(self, items: Sequence[Item], count: int, seed: int = 0) -> Tensor:
        """Held-out items -> at most `count` encoded sequences (N, T), from as many items as possible.

        Raises:
            InputError: no item gives one.
        """
        ...

    def begin(self, prompt: Tensor) -> Tensor:
        """(B, P) ids without start token, P >= 0 -> (B, P') ids that `model.start` takes, P' >= 1."""
        ...

    def encode_prompt(self, item: Item, number: int | None = None) -> Tensor:
        """One item -> the prompt (P,) that it gives, start token included: all of a text, the top of a picture.

        Args:
            number: its place among several, for messages.

        Raises:
            InputError: it leaves no room in the context.
        """
        ...

    def prompts(self, tokens: Tensor) -> Tensor:
        """Encoded tokens (N, T) -> (N, P), the part of each that a completion is asked for; start token included."""
        ...

    def max_new_tokens(self, prompt_length: int) -> int:
        """How many tokens a completion of a prompt of P tokens (start token included) has unless the user says."""
        ...

    def decode(self, tokens: Tensor) -> list[Item]:
        """Tokens (N, T), start and end tokens allowed, -> items."""
        ...

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Items -> one file each in `folder`."""
        ...

    def assemble(self, prompts: Sequence[Tensor], completions: Tensor) -> list[Item]:
        """Prompts (P,) each and completions (B, S) -> what a user sees: the continuation of a text, a whole picture."""
        ...

    def compare(self, prompts: Tensor, columns: dict[str, Tensor]) -> Any:
        """Prompts (N, P) and columns of completions (N, S) by title -> the object to look at, one row an example: a PIL
        picture, or an HTML fragment (escaped)."""
        ...

    def measures(self, prompts: Tensor, completions: Tensor) -> dict[str, Tensor]:
        """Cheap numbers that need the meaning of a token: prompts (B, P), completions (B, S) -> name -> (B,) values,
        or () where a number belongs to all completions together."""
        ...

    def yardstick(self, training: Tensor, originals: Tensor) -> Yardstick:
        """What compares completions with decoded items: training sequences (N, T) and held-out originals (M, T).
        Made from the base; hyperfitting the model afterwards does not change it."""
        ...

    def with_settings(self, settings: Any) -> Modality:
        """The same codec and model with other settings."""
        ...

    def save(self, folder: Path) -> None:
        """Model (`save_pretrained` layout) and codec into `folder`, safetensors and JSON only."""
        ...
