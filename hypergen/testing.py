"""Check what `hypergen.modality` asks of every adapter, in the tests of a modality of your own, too.

    from hypergen import testing

    testing.check_adapter("my_package")
    testing.check_model(modality.model, tokens)
    testing.check_codec(modality, items)
    testing.check_written(modality, items, folder)
    testing.check_saved(modality, adapter, settings, items, folder)

A check that fails is an AssertionError. Tokens are (N, T) ids with T >= 4 that leave room in the context; tolerances
are for fp32 on a CPU.

Shape letters: B batch, T tokens, P prompt, S completion, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hypergen import modality as contract
from hypergen.errors import InputError
from hypergen.modality import Adapter, Item, Metric, Modality, TokenModel
from hypergen.registry import OF_CONFIG

TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
SAFE_SUFFIXES = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".model", ".jinja"}  # nothing that unpickles


def check_adapter(package: str) -> None:
    """Check that a package has the modules `config` and `adapter` with everything in them that the contract names.

    Args:
        package: dotted name, as `hypergen.register_modality` takes it.
    """
    config, adapter = (importlib.import_module(f"{package}.{name}") for name in ("config", "adapter"))
    _check_members(config, OF_CONFIG)
    _check_members(adapter, [name for name in vars(contract.Adapter) if not name.startswith("_")])
    check_signatures(adapter, contract.Adapter)
    check_constants(config, adapter)


def check_constants(config: Any, adapter: Adapter) -> None:
    """Check what a package declares besides functions."""
    assert all(isinstance(one, Metric) and one.head and one.meaning for one in adapter.METRICS.values())
    assert set(config.PAPER_RECIPE) <= set(config.Settings.__dataclass_fields__)
    suffixes = (*config.MODEL_SUFFIXES, *(one.suffix for one in config.EXPORT_FORMATS.values()))
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes), suffixes
    assert adapter.card(source="no/such-base") == {}


def _check_members(module: ModuleType, names: Iterable[str]) -> None:
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{module.__name__} lacks {', '.join(missing)}"


def check_signatures(implementation: object, protocol: type) -> None:
    """Check that the functions of an implementation begin with the parameters that a protocol declares."""
    for name, declared in _declared(protocol).items():
        found, expected = _parameters(getattr(implementation, name)), _parameters(declared)
        assert found[: len(expected)] == expected, f"{name}: has {found}, the contract {expected}"


def _declared(protocol: type) -> dict[str, Callable[..., Any]]:
    """List the functions that a protocol and those it is made of declare, by name."""
    ours = [one for one in protocol.__mro__ if one.__module__ == contract.__name__ and one is not contract.Module]
    members = {name: part for one in reversed(ours) for name, part in vars(one).items() if not name.startswith("_")}
    return {name: part for name, part in members.items() if inspect.isfunction(part)}


def _parameters(function: Callable[..., Any]) -> list[tuple[str, str, bool]]:
    """List name, kind and whether there is a default of each parameter, `self` left out."""
    given = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    return [(one.name, one.kind.description, one.default is not inspect.Parameter.empty) for one in given]


def _refusal(attempt: Callable[[], object]) -> str:
    """Return the message of an attempt that must be refused."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    raise AssertionError("an InputError was expected")


def check_model(model: TokenModel, tokens: Tensor) -> None:
    """Check everything that a TokenModel promises."""
    was_training = model.training
    check_signatures(model, TokenModel)
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
    """Check shapes, that `forward` is `head(hidden)`, also slice by slice, and that no position sees the future."""
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
    """Check that greedy decoding with a cache gives the ids and logits of recomputing the prefix at each token."""
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
    """Check that two decodings do not disturb each other: a second `prefill` leaves the first cache as it was."""
    token, (_, first) = prompt[:, 0], model.prefill(prompt, 2)
    model.prefill(prompt.flip(0), 2)
    logits, _ = model.decode_step(token, first)
    torch.testing.assert_close(logits, model(torch.cat([prompt, token[:, None]], 1))[:, -1], **TOLERANCE)


def check_select(model: TokenModel, tokens: Tensor) -> None:
    """Check that rows of a cache can be dropped, reordered and repeated in the middle of decoding."""
    prompt, following = tokens[:, :-2], tokens[:, -2:]
    rows = torch.tensor([len(tokens) - 1, 0, 0], device=tokens.device)
    _, state = model.prefill(prompt, 3)
    _, state = model.decode_step(following[:, 0], state)
    logits, _ = model.decode_step(following[rows, 1], model.select_rows(state, rows))
    torch.testing.assert_close(logits, model(tokens)[rows, -1], **TOLERANCE)


def check_padding(model: TokenModel, tokens: Tensor) -> None:
    """Check that rows behind padding get the logits that they get alone, also once rows were exchanged."""
    num_padding = torch.arange(len(tokens), device=tokens.device) % (tokens.shape[1] - 2)
    logits, state = model.prefill(tokens[:, :-1], 2, num_padding)
    rows = torch.arange(len(tokens), device=tokens.device).flip(0)
    following, _ = model.decode_step(tokens[rows, -1], model.select_rows(state, rows))
    for row, pad in enumerate(num_padding.tolist()):
        expected = model(tokens[row : row + 1, pad:])[0]
        torch.testing.assert_close(logits[row], expected[-2], **TOLERANCE)
        torch.testing.assert_close(following[len(tokens) - 1 - row], expected[-1], **TOLERANCE)


def check_boundary(model: TokenModel, tokens: Tensor) -> None:
    """Check that the two halves of a model cut before any block give `hidden`, also with a stop on the way."""
    hidden = model.hidden(tokens)
    for num_last in range(1, len(model.blocks) + 1):
        boundary = model.hidden_before(tokens, num_last)
        assert boundary.shape[:2] == tokens.shape
        torch.testing.assert_close(model.forward_from(boundary, num_last), hidden, **TOLERANCE)
        if num_last > 1:
            further = model.forward_from(boundary, num_last, num_last - 1)
            torch.testing.assert_close(further, model.hidden_before(tokens, num_last - 1), **TOLERANCE)


def check_trained_parts(model: TokenModel, tokens: Tensor) -> None:
    """Check that training from the boundary reaches every weight behind it, and no weight before it."""
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
    """Check that encoding, prompts, decoding, figures and metrics agree in shape, with at least 3 items."""
    check_signatures(modality, Modality)
    tokens = modality.encode(items)
    check_tokens(modality, tokens)
    check_items(modality, items, tokens)
    check_count(modality, items)
    check_prompts(modality, tokens)
    prompts = modality.prompts(tokens)
    check_figure(modality, prompts, tokens[:, prompts.shape[1] :])
    check_metrics(modality, prompts, tokens[:, prompts.shape[1] :])
    check_exchange(modality, items, tokens)


def check_items(modality: Modality, items: Sequence[Item], tokens: Tensor) -> None:
    """Check that one item is told from several, and that tokens give as many items."""
    assert all(modality.is_item(item) for item in items) and not modality.is_item(list(items))
    assert len(modality.decode(tokens)) == len(tokens)


def check_prompts(modality: Modality, tokens: Tensor) -> None:
    """Check that prompts are the beginnings of sequences, that they leave room, and that bare ids get a start."""
    prompts = modality.prompts(tokens)
    assert prompts.shape[0] == len(tokens) and 1 <= prompts.shape[1] < tokens.shape[1]
    assert prompts.equal(tokens[:, : prompts.shape[1]])
    check_lengths(modality, prompts.shape[1])
    check_start(modality, tokens)


def check_lengths(modality: Modality, prompt_length: int) -> None:
    """Check that completions are as long as the context allows, or shorter."""
    assert 1 <= modality.max_new_tokens(prompt_length) <= modality.model.context_length - prompt_length
    assert 1 <= modality.num_compared_tokens(7) <= 7


def check_start(modality: Modality, tokens: Tensor) -> None:
    """Check that start tokens come before bare ids, also where there are none."""
    begun = modality.add_start_tokens(tokens[:, 1:3])
    assert begun.dtype == torch.long and len(begun) == len(tokens) and begun[:, -2:].equal(tokens[:, 1:3])
    assert modality.add_start_tokens(tokens[:, :0]).shape[1] >= 1


def check_exchange(modality: Modality, items: Sequence[Item], tokens: Tensor) -> None:
    """Check that the codec goes with another model of the same shapes."""
    other = copy.deepcopy(modality.model)
    exchanged = modality.with_model(other)
    assert exchanged.model is other and exchanged.encode(items).equal(tokens)


def check_figure(modality: Modality, prompts: Tensor, completions: Tensor) -> None:
    """Check that a figure is a fragment of a page and maybe files, and that rendered items are text or are not."""
    figure = modality.comparison_figure(list(prompts), {"one": completions}, recited={"one": [0]})
    assert figure.html() != modality.comparison_figure(list(prompts), {"one": completions}).html()
    assert figure.content is not None and figure.html().lstrip().startswith("<")
    with tempfile.TemporaryDirectory() as folder:
        files = figure.save(Path(folder))
        assert sorted(files) == sorted(Path(folder).iterdir())
    texts = [modality.as_text(item) for item in modality.render(list(prompts), completions)]
    assert len({text is None for text in texts}) == 1


def check_metrics(modality: Modality, prompts: Tensor, completions: Tensor) -> None:
    """Check that metrics are one number a completion or one of the whole set, and that costlier ones are described."""
    measures = modality.metrics(prompts, completions)
    reference_metrics = modality.reference_metrics(
        torch.cat([prompts, completions], 1), torch.cat([prompts, completions], 1)
    )
    against = reference_metrics.compute(prompts, completions)
    assert against.keys() <= reference_metrics.describe(len(completions)).keys()
    assert not against.keys() & measures.keys()
    assert all(value.shape in ((), (len(completions),)) for value in (measures | against).values())


def check_tokens(modality: Modality, tokens: Tensor) -> None:
    """Check that tokens are (N, T) int64 ids of the vocabulary that fit into the context."""
    assert tokens.ndim == 2 and tokens.dtype == torch.long
    assert tokens.shape[1] <= modality.model.context_length
    assert int(tokens.min()) >= 0 and int(tokens.max()) < modality.model.num_tokens


def check_count(modality: Modality, items: Sequence[Item]) -> None:
    """Check that `seed` alone chooses the sequences, and that too many are an error of one line with their number."""
    chosen, loss_mask = modality.encode_training(items, count=2, seed=3)
    again = modality.encode_training(items, count=2, seed=3)
    assert chosen.shape == (2, modality.sequence_length) and chosen.equal(again.tokens)
    for tokens, mask in ((chosen, loss_mask), modality.encode_held_out(items, 2)):
        if mask is not None:
            assert mask.dtype == torch.bool and mask.shape == tokens.shape and bool(mask[:, 1:].any(1).all())
    if loss_mask is None or again.loss_mask is None:
        assert loss_mask is again.loss_mask
    else:
        assert loss_mask.equal(again.loss_mask)
    too_many = 10**6 + 7
    message = _refusal(lambda: modality.encode_training(items, count=too_many))
    assert str(too_many) in message and "\n" not in message, message


def check_written(modality: Modality, items: Sequence[Item], folder: Path) -> None:
    """Check that there is one file for each item, inside the folder."""
    paths = modality.write(items, folder)
    assert len(set(paths)) == len(items)
    assert all(path.parent == folder and path.stat().st_size > 0 for path in paths)


def check_saved(modality: Modality, adapter: Adapter, settings: Any, items: Sequence[Item], folder: Path) -> None:
    """Check that a saved modality comes back with the same ids, logits and items, and leaves no file that runs code."""
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
