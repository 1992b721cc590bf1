"""Time a training step on cached activations beside the loops that it replaces: R3 of `speed.py`.

Ours trains in the precision that its trial finds here, or in the one that a case names. Trainer's default is fp32;
with the same precision for both it is `bf16=True`, or autocast around a plain loop. Peers run torch's own attention.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from paired_timing import matmul_rate, time_pair
from speed_models import Case, Preset, text_model
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

import hypergen
from hypergen.config import Precision
from hypergen.evaluation.baselines import HYPERFITTED_GREEDY
from hypergen.runtime.devices import has_bf16_units
from hypergen.text.model import TextModel
from hypergen.training.activation_cache import ActivationCache
from hypergen.training.batch_order import batch_rows
from hypergen.training.loop import hyperfit
from hypergen.training.plan import Plan, TrainingHooks
from hypergen.training.precision import autocast

STEPS = 8  # of training in one measurement; the first does not count
BATCH = 8
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAME_LOSS = {"fp32": 1e-4, "bf16": 5e-3}  # relative


def training(preset: Preset, rounds: int, side: str) -> list[Case]:
    """Train 8 x 256 tokens a step: last 2, last 1 and all blocks, beside HF Trainer and a plain frozen loop."""
    model, best = text_model(preset), chosen_precision()
    shape = STEPS * BATCH, min(257, model.context_length)
    tokens = torch.randint(5, model.num_tokens, shape, generator=torch.Generator().manual_seed(2)).to(preset.device)
    if side != "both":
        (OurTraining(model, tokens, 2, best) if side == "ours" else TheirTrainer(model, tokens))()
        return []
    cases = []
    for precision, theirs in dict.fromkeys([(best, "fp32"), (best, best), ("fp32", "fp32")]):
        for last in (2, 1, 0):
            if last == 0 and precision != theirs:
                continue
            ours = OurTraining(model, tokens, last, precision)
            peers: dict[str, Any] = {"HF Trainer, all blocks": TheirTrainer(model, tokens, theirs)}
            if last:
                peers["the same blocks frozen, no cache"] = FrozenLoop(model, tokens, last, theirs)
            same = ours.agrees_with_uncached() if last else ""
            what = f"last {last} on the cache" if last else "all blocks"
            for peer, other in peers.items():
                record = time_pair(ours, other, max(3, rounds // 2))
                count = BATCH * (shape[1] - 1)
                rates = {"rate": count / record["seconds"], "their_rate": count / record["their_seconds"]}
                name = f"{what}, {precision}; {peer}, {theirs}"
                limit = operations(model, last) / matmul_rate(DTYPES[precision])
                rates["roofline"] = limit * count / record["seconds"]
                cases.append({"name": name, "same": same, "unit": "tokens/s", **record, **rates})
    return [*cases, *effect_of_the_cache(preset)]


def operations(model: TextModel, last: int) -> float:
    """Count operations of a training step a token: six a trained weight, four a weight of a frozen head.

    Attention is left out.
    """
    blocks = sum(p.numel() for block in model.blocks[-last or None :] for p in block.parameters())
    head = model.causal.get_output_embeddings().weight
    trained_head = last == 0 or head is not model.causal.get_input_embeddings().weight
    return 6 * blocks + (6 if trained_head else 4) * head.numel()


def chosen_precision() -> Precision:
    """Choose the precision that the trial of a fit finds on this machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if has_bf16_units(device) else "fp32"


def effect_of_the_cache(preset: Preset) -> list[Case]:
    """Hyperfit the embedded text base with and without the cache, and compare its greedy completions."""
    if preset.text is not None:
        return []
    cases = []
    without_cache = mock.patch.object(ActivationCache, "build", lambda *_, **__: None)
    for name, patch in (("cached", nullcontext()), ("uncached", without_cache)):
        with tempfile.TemporaryDirectory() as folder, patch:
            run = hypergen.fit(modality="text", output=f"{folder}/run", measure_every=0)
        row = next(row for row in run.records if row["name"] == HYPERFITTED_GREEDY)
        numbers = {key: row["values"][key] for key in ("rep_4", "ttr", "overlap_mean")}
        told = ", ".join(
            f"{key} {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" for key, value in numbers.items()
        )
        cases.append({"name": f"greedy text after a {name} fit: {told}", "values": numbers})
    return cases


def now() -> float:
    """Read the clock once everything queued is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class OurTraining:
    """Measure the seconds a step of `hyperfit`, without the work that is done once."""

    def __init__(self, model: TextModel, tokens: Tensor, last: int, precision: Precision = "fp32"):
        self.model, self.tokens = copy.deepcopy(model), tokens
        self.start = copy.deepcopy(model.state_dict())
        self.plan = Plan(
            steps=STEPS,
            batch_size=BATCH,
            learning_rate=1e-4,
            seed=0,
            target_loss=0.0,
            target_accuracy=None,
            last_layers=last,
            precision=precision,
            pretraining=False,
            micro_batch_size=None,
            recompute=False,
            checkpoint_every=0,
            checkpoint_seconds=math.inf,
        )
        self.set_up = 0.0
        """Seconds before the first step, of the last call: activation cache, optimizer state."""

    def __call__(self) -> float:
        started, times = now(), []
        self._train(lambda: times.append(now()))
        step = (times[-1] - times[0]) / (STEPS - 1)
        self.set_up = max(0.0, times[0] - started - step)
        return step

    def _train(self, after_step: Callable[[], None] = lambda: None) -> float:
        self.model.load_state_dict(self.start)
        return hyperfit(self.model, self.tokens, self.plan, TrainingHooks(stop_signal=after_step), label="ours").loss

    def agrees_with_uncached(self) -> bool:
        """Compare the loss of one epoch with that of a plain training without the cache, to 1e-4 of it (bf16: 5e-3)."""
        self.model.load_state_dict(self.start)
        uncached = FrozenLoop(self.model, self.tokens, self.plan.last_layers, self.plan.precision).epoch_loss()
        return abs(self._train() - uncached) <= SAME_LOSS[self.plan.precision] * uncached


class FrozenLoop:
    """Train in a plain transformers loop: lower blocks are frozen (0: none), yet everything runs in each step."""

    def __init__(self, model: TextModel, tokens: Tensor, last: int, precision: Precision = "fp32"):
        wrapped = copy.deepcopy(model)
        self.causal, self.tokens, self.precision = wrapped.causal.float().train(), tokens, precision
        self.causal.set_attn_implementation("sdpa")
        self.causal.requires_grad_(last == 0)
        for part in (*wrapped.blocks[len(wrapped.blocks) - last :], *wrapped.final_modules):
            part.requires_grad_(True)
        trained = [parameter for parameter in self.causal.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)

    def __call__(self) -> float:
        self._step(0)
        started = now()
        for step in range(1, STEPS):
            self._step(step)
        return (now() - started) / (STEPS - 1)

    def epoch_loss(self) -> float:
        """Train one epoch, and return its mean loss."""
        return sum(self._step(step) for step in range(STEPS)) / STEPS

    def _step(self, step: int) -> float:
        batch = self.tokens[batch_rows(0, step, len(self.tokens), BATCH)]
        with autocast(self.precision, batch.device):
            loss = self.causal(input_ids=batch, labels=batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class TheirTrainer:
    """Measure the seconds a step of transformers' Trainer, full fine-tuning, without the work that is done once."""

    def __init__(self, model: TextModel, tokens: Tensor, precision: Precision = "fp32"):
        self.causal, self.tokens, self.precision = copy.deepcopy(model).causal.float(), tokens.cpu(), precision
        self.causal.set_attn_implementation("sdpa")

    def __call__(self) -> float:
        times: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(now())

        self.causal.requires_grad_(True)
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                folder,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                bf16=self.precision == "bf16",
                use_cpu=not torch.cuda.is_available(),
            )
            rows = [{"input_ids": row, "labels": row} for row in self.tokens]
            Trainer(self.causal, options, train_dataset=rows, callbacks=[Clock()]).train()
        return (times[-1] - times[0]) / (STEPS - 1)
