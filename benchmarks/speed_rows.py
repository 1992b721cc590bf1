"""Compare decoding, blocking, pictures and sampling with their peers: the rows of `speed.py`.

A row is a function (preset, rounds, side) -> cases; it says what must be equal before a ratio counts. With side "ours"
or "theirs" it runs that side once, for the peak memory, and its cases are not used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import speed_training
import torch
from paired_timing import roofline_seconds, time_pair, timed
from speed_models import Case, Preset, story_prompts, text_model
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    ImageGPTForCausalImageModeling,
    LlamaForCausalLM,
    NoBadWordsLogitsProcessor,
)

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.image.checkpoint import load_transformer
from hypergen.text.model import TextModel

DECODING = {
    "fp32": DecodingConfig(),
    "fp32, no native step": DecodingConfig(native=False),
    "bf16": DecodingConfig(precision="bf16"),
}
SIZES = {"fp32": 4, "bf16": 2}  # bytes
CHOICES = 2000  # of a token for 32 rows in one measurement, about a tenth of a second


def their_greedy(model: TextModel, prompts: list[Tensor], new: int, end: int | None = None) -> Tensor:
    """Decode with `generate` of transformers: one batch, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.stack([F.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (longest - len(prompt), 0)) for prompt in prompts])
    ending = {"eos_token_id": end, "pad_token_id": end or 0} | ({} if end is not None else {"min_new_tokens": new})
    with torch.inference_mode():
        out = model.causal.generate(
            ids, attention_mask=mask, max_new_tokens=new, do_sample=False, suppress_tokens=None, **ending
        )
    return out[:, longest:].cpu()


def decoding_case(name: str, model: Any, ours: Callable, theirs: Callable, rounds: int, side: str, new: int) -> Case:
    """Measure the tokens a second of both sides, and compare their ids."""
    if side != "both":
        (ours if side == "ours" else theirs)()
        return {}
    one, other = ours(), theirs()
    tokens = other.numel() if new == 0 else one.shape[0] * new
    record = time_pair(timed(ours), timed(theirs), rounds)
    rates = {"rate": tokens / record["seconds"], "their_rate": tokens / record["their_seconds"], "unit": "tokens/s"}
    return {"name": name, "same": one.equal(other) or f"{_common(one, other):.0%} of ids", **record, **rates}


def _common(one: Tensor, other: Tensor) -> float:
    """Compute the share of ids before each row's first difference."""
    length = min(one.shape[1], other.shape[1])
    return (one[:, :length] == other[:, :length]).int().cummin(1).values.double().mean().item()


def roofline(model: Any, rows: float, length: float, step_seconds: float, size: int = 4) -> float:
    """Compute the share of the physical limit that a decoding step reaches, with numbers of `size` bytes.

    Embeddings are looked up, not read, so they do not count.
    """
    causal = getattr(model, "causal", model)
    config = causal.config
    layers, width = (
        (config.num_hidden_layers, config.hidden_size)
        if hasattr(config, "num_hidden_layers")
        else (config.num_layers, config.width)
    )
    weights = sum(p.numel() for p in causal.parameters())
    if getattr(config, "tie_word_embeddings", True) is False or not hasattr(config, "tie_word_embeddings"):
        weights -= model.num_tokens * width
    return roofline_seconds(size * weights, 2 * size * layers * width, weights, rows, length) / step_seconds


# R1, R2: decoding text.


def single_stream(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Decode batch 1, greedy, 32-token prompt, 256 new tokens; transformers in fp32."""
    model, prompts, new = text_model(preset), story_prompts(preset, [32]), 256
    cases = []
    for name, config in DECODING.items():
        case = decoding_case(
            f"batch 1, greedy, {name}", model,
            lambda config=config: generate(model, prompts, new, config, label="ours"),
            lambda: their_greedy(model, prompts, new),
            rounds, side, new,
        )  # fmt: skip
        if side != "both":
            return []
        case["roofline"] = roofline(model, 1, 32 + new / 2, case["seconds"] / new, SIZES[config.precision])
        cases.append(case)
    return [*cases, *growth(preset, model)]


def growth(preset: Preset, model: TextModel) -> list[Case]:
    """Measure tokens a second with more rows and greater length; ours alone."""
    cases = []
    for rows, new in ((1, 96), (8, 96), (32, 96), (128, 96), (8, 64), (8, 256)):
        prompts = story_prompts(preset, [32] * rows)
        seconds = min(timed(lambda p=prompts, n=new: generate(model, p, n, batch_size=len(p)))() for _ in range(3))
        cases.append(
            {"name": f"{rows} rows, {new} tokens, ours alone", "rate": rows * new / seconds, "unit": "tokens/s"}
        )
    return cases


def ragged_batch(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Decode 32 prompts of 16 to 128 tokens, up to 128 new ones, with an end token that ends rows at various places."""
    model, new = text_model(preset), 128
    lengths = torch.randint(16, 129, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = story_prompts(preset, lengths)
    whole = generate(model, prompts, new)
    ended = [
        ((whole == token).int().cumsum(1) > 0).double().mean().item() for token in range(min(4096, model.num_tokens))
    ]
    end = min(range(len(ended)), key=lambda token: abs(ended[token] - 0.5))
    cases = []
    alive = len(prompts) * (1 - ended[end])  # rows in a step, on average
    for name in ("fp32", "bf16"):
        cases.append(decoding_case(
            f"batch 32, prompts of 16 to 128, {ended[end]:.0%} of the places after a row's end, {name}", model,
            lambda name=name: generate(model, prompts, new, DECODING[name], end_tokens=(end,), label="ours"),
            lambda: their_greedy(model, prompts, new, end),
            rounds, side, 0,
        ))  # fmt: skip
        if side == "both":
            step = cases[-1]["seconds"] / new
            length = sum(lengths) / len(lengths) + new / 2
            cases[-1]["roofline"] = roofline(model, alive, length, step, SIZES[name])
    return cases if side == "both" else []


# R4: the citation blocker.


def blocker(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Decode 32 rows greedily with all 5-grams of N x 256 training tokens forbidden, N = 2,000 and fewer."""
    model, new = text_model(preset), 96
    prompts = story_prompts(preset, [32] * 32)
    draw = torch.Generator().manual_seed(3)
    training_tokens = torch.randint(5, model.num_tokens, (2000, 256), generator=draw)
    index = CitationIndex(training_tokens, 5).to(preset.device)
    config = DecodingConfig(block_citations=5)

    def blocked() -> Tensor:
        return generate(model, prompts, new, config, citations=index, label="blocked")

    case = decoding_case(
        "with 504,000 5-grams blocked; without",
        model,
        blocked,
        lambda: generate(model, prompts, new),
        rounds,
        side,
        new,
    )
    if side != "both":
        return []
    case["same"] = _is_free(blocked(), prompts, training_tokens)
    return [case, their_blocker(model, index, training_tokens, preset, rounds), *blocker_growth(model, prompts, draw)]


def _is_free(completions: Tensor, prompts: list[Tensor], training_tokens: Tensor) -> bool:
    known = {tuple(row[i : i + 5]) for row in training_tokens.tolist() for i in range(len(row) - 4)}
    whole = [prompt.tolist() + row for prompt, row in zip(prompts, completions.tolist(), strict=True)]
    return not any(tuple(row[i : i + 5]) in known for row in whole for i in range(28, len(row) - 4))


def their_blocker(model: TextModel, index: CitationIndex, training: Tensor, preset: Preset, rounds: int) -> Case:
    """Choose one token for 32 rows, beside transformers' processor for bad words, set up beforehand."""
    draw = torch.Generator().manual_seed(4)
    logits = torch.randn(32, model.num_tokens, generator=draw).to(preset.device)
    context = training[torch.randint(2000, (32,), generator=draw), :64].to(preset.device)
    words = [list(gram) for gram in {tuple(row[i : i + 5]) for row in training.tolist() for i in range(252)}]
    theirs = NoBadWordsLogitsProcessor(words, eos_token_id=0)
    theirs(context, logits.clone())  # builds its tables

    def their_choice() -> Tensor:
        return theirs(context, logits.clone()).argmax(-1)

    our_choices = timed(lambda: [index.argmax_allowed(logits, context) for _ in range(CHOICES)])
    record = time_pair(our_choices, timed(their_choice), min(rounds, 3))
    record |= {name: CHOICES * record[name] for name in ("ratio", "low", "high") if name in record}
    rates = {"rate": CHOICES / record["seconds"], "their_rate": 1 / record["their_seconds"], "unit": "steps/s"}
    same = index.argmax_allowed(logits, context).equal(their_choice())
    return {"name": "choosing for 32 rows; bad_words_ids of transformers", "same": same, **record, **rates}


def blocker_growth(model: TextModel, prompts: list[Tensor], draw: torch.Generator) -> list[Case]:
    cases = []
    for count in (16, 128, 2000):
        index = CitationIndex(torch.randint(5, model.num_tokens, (count, 256), generator=draw), 5)
        index = index.to(next(model.parameters()).device)

        def blocked(index: CitationIndex = index) -> Tensor:
            return generate(model, prompts, 32, DecodingConfig(block_citations=5), citations=index)

        seconds = min(timed(blocked)() for _ in range(3))
        cases.append({"name": f"{count} sequences, ours alone", "rate": 32 * 32 / seconds, "unit": "tokens/s"})
    return cases


# R5: pictures.


def pictures(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Decode 1,024 codes a picture, greedy, from the start token and 7 codes."""
    torch.manual_seed(0)
    theirs = ImageGPTForCausalImageModeling(preset.image).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.2)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_transformer(Path(folder)).to(preset.device).eval()
    theirs.to(preset.device)
    start, positions = preset.image.vocab_size - 1, preset.image.n_positions
    cases = []
    for rows in (1, 8):
        codes = torch.randint(0, start, (rows, 7), generator=torch.Generator().manual_seed(rows))
        prompt = torch.cat([torch.full((rows, 1), start), codes], 1).to(preset.device)
        new = positions + 1 - prompt.shape[1]

        def their_codes(prompt: Tensor = prompt, new: int = new) -> Tensor:
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "eos_token_id": None}
            with torch.inference_mode():
                ids = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)
            return ids[:, prompt.shape[1] :].cpu()

        def our_codes(config: DecodingConfig, prompt: Tensor = prompt, new: int = new) -> Tensor:
            return generate(ours, prompt, new, config, label="ours")

        for name in ("fp32", "fp32, no native step") if rows == 1 else ("fp32",):
            case = decoding_case(
                f"batch {rows}, {name}", ours, partial(our_codes, config=DECODING[name]), their_codes,
                max(3, rounds // 3), side, new,
            )  # fmt: skip
            if side == "both":
                case["roofline"] = roofline(ours, rows, positions / 2, case["seconds"] / new)
                cases.append(case)
    return cases


# R6: sampling from a wide vocabulary.


def sampling(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Sample from a nucleus (p .9, no top-k), beside greedy, and beside `generate` with the same filter."""
    torch.manual_seed(0)
    model = TextModel(LlamaForCausalLM(preset.wide_vocabulary)).to(preset.device).eval()
    with torch.no_grad():  # as peaked as a trained model's predictions: a nucleus of tens of tokens
        model.causal.lm_head.weight.mul_(30)
    prompt, new = torch.randint(5, 1000, (1, 16), device=preset.device), 64
    config = DecodingConfig(strategy="temperature", top_p=0.9)

    def ours() -> Tensor:
        return generate(model, prompt, new, config, label="ours")

    def their_sample() -> Tensor:
        with torch.inference_mode():
            options = {"do_sample": True, "top_p": 0.9, "top_k": 0, "temperature": 1.0, "eos_token_id": None}
            return model.causal.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, pad_token_id=0, **options
            )[:, 16:].cpu()

    cases = [
        decoding_case("top-p .9; greedy", model, ours, lambda: generate(model, prompt, new), rounds, side, new),
        decoding_case("top-p .9; top-p of transformers", model, ours, their_sample, rounds, side, new),
    ]
    return [case | {"same": "other draws"} for case in cases] if side == "both" else []


ROWS: dict[str, Callable[[Preset, int, str], list[Case]]] = {
    "R1": single_stream,
    "R2": ragged_batch,
    "R3": speed_training.training,
    "R4": blocker,
    "R5": pictures,
    "R6": sampling,
}
