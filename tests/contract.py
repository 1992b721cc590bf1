"""What `hypergen.modality` asks of every adapter, as checks that any modality's tests can call.

    contract.check_model(modality.model, tokens)
    contract.check_codec(modality, items)
    contract.check_saved(modality, module, settings, items, folder)

Tokens are (N, T) ids with T >= 4 that leave room in the context. Tolerances are for fp32 on a CPU.

Shape letters: B batch, T tokens, P prompt, S completion, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.modality import Adapter, Item, Modality, TokenModel

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
SAFE_SUFFIXES = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".model", ".jinja"}  # nothing that unpickles


def check_model(model: TokenModel, tokens: Tensor) -> None:
    """All checks of a TokenModel."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        check_logits(model, tokens)
        check_cache(model, tokens[:, : tokens.shape[1] // 2], tokens.shape[1] - tokens.shape[1] // 2)
        check_cache(model, tokens[:, :1], 3)
        check_state(model, tokens[:, : tokens.shape[1] // 2])
        check_select(model, tokens)
        if model.supports_left_padding:
            check_padding(model, tokens)
        check_boundary(model, tokens)
    model.train(was_training)
    check_trained_parts(model, tokens)


def check_logits(model: TokenModel, tokens: Tensor) -> None:
    """Shapes; `forward` is `head(hidden)`, also slice by slice; no position sees the future."""
    hidden, logits = model.hidden(tokens), model(tokens)
    assert logits.shape[:-1] == tokens.shape
    assert 1 <= logits.shape[-1] <= model.num_tokens  # a start token need not have a logit
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(model.head(hidden), logits, **TOLERANCE)
    torch.testing.assert_close(model.head(hidden[:, 1:3].flatten(0, 1)), logits[:, 1:3].flatten(0, 1), **TOLERANCE)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.num_tokens
    torch.testing.assert_close(model(changed)[:, :-1], logits[:, :-1], **TOLERANCE)
    assert tokens.shape[1] <= model.context_length


def check_cache(model: TokenModel, prompt: Tensor, max_new_tokens: int) -> None:
    """Greedy decoding with a cache gives the ids and logits of recomputing the prefix at each token."""
    tokens = prompt
    logits, state = model.prefill(prompt, max_new_tokens)
    for _ in range(max_new_tokens):
        expected = model(tokens)[:, -1]
        torch.testing.assert_close(logits, expected, **TOLERANCE)
        token = logits.argmax(-1)
        assert token.equal(expected.argmax(-1))
        tokens = torch.cat([tokens, token[:, None]], 1)
        if tokens.shape[1] < prompt.shape[1] + max_new_tokens:
            logits, state = model.decode_step(token, state)


def check_state(model: TokenModel, prompt: Tensor) -> None:
    """Two decodings do not disturb each other: a second `prefill` leaves the first cache as it was."""
    token = prompt[:, 0]
    _, first = model.prefill(prompt, 2)
    model.prefill(prompt.flip(0), 2)
    logits, _ = model.decode_step(token, first)
    torch.testing.assert_close(logits, model(torch.cat([prompt, token[:, None]], 1))[:, -1], **TOLERANCE)


def check_select(model: TokenModel, tokens: Tensor) -> None:
    """Rows of a state can be dropped, reordered and repeated in the middle of decoding."""
    prompt, following = tokens[:, :-2], tokens[:, -2:]
    rows = torch.tensor([len(tokens) - 1, 0, 0], device=tokens.device)
    _, state = model.prefill(prompt, 3)
    _, state = model.decode_step(following[:, 0], state)
    logits, _ = model.decode_step(following[rows, 1], model.select_rows(state, rows))
    torch.testing.assert_close(logits, model(tokens)[rows, -1], **TOLERANCE)


def check_padding(model: TokenModel, tokens: Tensor) -> None:
    """Rows behind padding, whatever its id, get the logits that they get alone, also once rows were exchanged."""
    num_padding = torch.arange(len(tokens), device=tokens.device) % (tokens.shape[1] - 2)
    logits, state = model.prefill(tokens[:, :-1], 2, num_padding)
    rows = torch.arange(len(tokens), device=tokens.device).flip(0)
    following, _ = model.decode_step(tokens[rows, -1], model.select_rows(state, rows))
    for row, pad in enumerate(num_padding.tolist()):
        expected = model(tokens[row : row + 1, pad:])[0]
        torch.testing.assert_close(logits[row], expected[-2], **TOLERANCE)
        torch.testing.assert_close(following[len(tokens) - 1 - row], expected[-1], **TOLERANCE)


def check_boundary(model: TokenModel, tokens: Tensor) -> None:
    """Split before any of the blocks, the two halves give `hidden`, also with a stop on the way."""
    hidden = model.hidden(tokens)
    for num_last in range(1, len(model.blocks) + 1):
        boundary = model.hidden_before(tokens, num_last)
        assert boundary.shape[:2] == tokens.shape
        torch.testing.assert_close(model.forward_from(boundary, num_last), hidden, **TOLERANCE)
        if num_last > 1:
            further = model.forward_from(boundary, num_last, num_last - 1)
            torch.testing.assert_close(further, model.hidden_before(tokens, num_last - 1), **TOLERANCE)


def check_trained_parts(model: TokenModel, tokens: Tensor) -> None:
    """From the boundary, training reaches every weight of the last block and of the tail; before it, none of them."""
    last = [weight for module in (model.blocks[-1], *model.final_modules) for weight in module.parameters()]
    assert {id(weight) for weight in last} <= {id(weight) for weight in model.parameters()}
    assert len({id(weight) for weight in last}) == len(last)
    trained = [weight for weight in last if weight.requires_grad]
    boundary = model.hidden_before(tokens, 1)
    if boundary.requires_grad:
        assert set(torch.autograd.grad(boundary.sum(), trained, allow_unused=True)) == {None}
    loss = model.head(model.forward_from(boundary.detach(), 1)).float().logsumexp(-1).sum()
    assert None not in set(torch.autograd.grad(loss, trained, allow_unused=True))


def check_codec(modality: Modality, items: Sequence[Item]) -> None:
    """Encoding, choosing, prompts, decoding, comparing and measuring agree in shape; at least 3 items."""
    tokens = modality.encode(items)
    check_tokens(modality, tokens)
    check_count(modality, items)
    prompts = modality.prompts(tokens)
    assert prompts.shape[0] == len(tokens) and 1 <= prompts.shape[1] < tokens.shape[1]
    assert prompts.equal(tokens[:, : prompts.shape[1]])
    assert 1 <= modality.max_new_tokens(prompts.shape[1]) <= modality.model.context_length - prompts.shape[1]
    assert len(modality.decode(tokens)) == len(tokens)
    prompts = modality.prompts(tokens)
    check_figure(modality, prompts, tokens[:, prompts.shape[1] :])
    assert all(modality.is_item(item) for item in items) and not modality.is_item(list(items))
    assert 1 <= modality.num_compared_tokens(7) <= 7
    check_metrics(modality, prompts, tokens[:, prompts.shape[1] :])
    other = copy.deepcopy(modality.model)
    assert modality.with_model(other).model is other and modality.with_model(other).encode(items).equal(tokens)
    begun = modality.add_start_tokens(tokens[:, 1:3])
    assert begun.dtype == torch.long and len(begun) == len(tokens) and begun[:, -2:].equal(tokens[:, 1:3])
    assert modality.add_start_tokens(tokens[:, :0]).shape[1] >= 1


def check_figure(modality: Modality, prompts: Tensor, completions: Tensor) -> None:
    """A figure is a fragment of a page and maybe files; a rendered item is text or is not, for all alike."""
    figure = modality.comparison_figure(prompts, {"one": completions}, recited={"one": [0]})
    assert figure.html() != modality.comparison_figure(prompts, {"one": completions}).html()
    assert figure.content is not None and figure.html().lstrip().startswith("<")
    with tempfile.TemporaryDirectory() as folder:
        files = figure.save(Path(folder))
        assert sorted(files) == sorted(Path(folder).iterdir())
    texts = [modality.as_text(item) for item in modality.render(list(prompts), completions)]
    assert len({text is None for text in texts}) == 1


def check_metrics(modality: Modality, prompts: Tensor, completions: Tensor) -> None:
    """One number a completion, or one of the whole set; reference metrics describe each of their own."""
    measures = modality.metrics(prompts, completions)
    reference_metrics = modality.reference_metrics(
        torch.cat([prompts, completions], 1), torch.cat([prompts, completions], 1)
    )
    against = reference_metrics.compute(prompts, completions)
    assert against.keys() <= reference_metrics.describe(len(completions)).keys()
    assert not against.keys() & measures.keys()
    assert all(value.shape in ((), (len(completions),)) for value in (measures | against).values())


def check_tokens(modality: Modality, tokens: Tensor) -> None:
    assert tokens.ndim == 2 and tokens.dtype == torch.long
    assert tokens.shape[1] <= modality.model.context_length
    assert int(tokens.min()) >= 0 and int(tokens.max()) < modality.model.num_tokens


def check_count(modality: Modality, items: Sequence[Item]) -> None:
    """`count` sequences, chosen by `seed` alone; too many is an error that names both numbers."""
    chosen, loss_mask = modality.encode_training(items, count=2, seed=3)
    again = modality.encode_training(items, count=2, seed=3)
    assert chosen.shape == (2, modality.sequence_length) and chosen.equal(again.tokens)
    for mask, other in ((loss_mask, again.loss_mask), modality.encode_held_out(items, 2)[::-1]):
        if mask is not None:
            assert mask.dtype == torch.bool and mask.shape == other.shape and bool(mask[:, 1:].any(1).all())
    assert loss_mask is None or loss_mask.equal(again.loss_mask)
    too_many = 10**6 + 7
    with pytest.raises(InputError, match=str(too_many)) as error:
        modality.encode_training(items, count=too_many)
    assert "\n" not in str(error.value)


def check_written(modality: Modality, items: Sequence[Item], folder: Path) -> None:
    """One file for each item, inside the folder."""
    paths = modality.write(items, folder)
    assert len(set(paths)) == len(items)
    assert all(path.parent == folder and path.stat().st_size > 0 for path in paths)


def check_saved(modality: Modality, adapter: Adapter, settings: Any, items: Sequence[Item], folder: Path) -> None:
    """A saved adapter comes back with the same ids, logits and items, and leaves no file that could run code."""
    modality.save(folder)
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes and suffixes <= SAFE_SUFFIXES, suffixes
    again, tokens = (
        adapter.load(source=str(folder), settings=settings, allow_pickle_weights=False),
        modality.encode(items),
    )
    assert again.encode(items).equal(tokens)
    assert again.decode(tokens) == modality.decode(tokens)
    assert again.prompts(tokens).equal(modality.prompts(tokens))
    modality.model.eval(), again.model.eval()
    with torch.no_grad():
        inputs = tokens[:, :-1]  # the last token of a sequence is only ever a target
        assert again.model(inputs).equal(modality.model(inputs))
    assert (again.name, again.end_tokens) == (modality.name, modality.end_tokens)
    assert again.model.num_tokens == modality.model.num_tokens
    assert again.model.context_length == modality.model.context_length
