"""Run the controls of `faults.py`: `transformers.Trainer`, and a loop around accelerate's `save_state`.

Both train the same Llama of 2 blocks on the same sequences, in processes that may die; how a run ended is told by the
digest of everything that it trained.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers.trainer_utils import get_last_checkpoint

from hypergen.training.batch_order import batch_rows
from tests.faults.inject import Fault, install

EPOCHS, SHORT_EPOCHS, ROWS_OF_DATA, BATCH = 20, 2, 24, 8
STEPS_A_EPOCH = ROWS_OF_DATA // BATCH
SECONDS = 120


def model() -> transformers.LlamaForCausalLM:
    """Make the same small Llama each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=64, max_position_embeddings=32, **sizes)
    return transformers.LlamaForCausalLM(config)


def sequences() -> torch.Tensor:
    """Make the same ids (N, T) each time."""
    return torch.randint(64, (ROWS_OF_DATA, 16), generator=torch.Generator().manual_seed(0))


def train_with_trainer(folder: Path, epochs: int, on_step: Callable[[int], None]) -> tuple[Any, Any]:
    """Continue the last checkpoint of the folder, or start; return model and optimizer."""

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(state.global_step)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        save_strategy="epoch",
        save_total_limit=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in sequences()]
    trainer = transformers.Trainer(model(), arguments, train_dataset=data, callbacks=[Watch()])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return trainer.model, trainer.optimizer


class Steps:
    """Count the steps, which a loop around accelerate must do itself."""

    def __init__(self) -> None:
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        """Give accelerate the count to save."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the count that accelerate saved."""
        self.done = state["done"]


def train_with_accelerate(folder: Path, epochs: int, on_step: Callable[[int], None]) -> tuple[Any, Any]:
    """Train likewise; the order of batches is a function of the step, so nothing is lost there."""
    naming = accelerate.utils.ProjectConfiguration(str(folder), automatic_checkpoint_naming=True, total_limit=2)
    accelerator = accelerate.Accelerator(cpu=True, project_config=naming)
    trained = model()
    trained, optimizer = accelerator.prepare(trained, torch.optim.AdamW(trained.parameters(), 1e-3))
    steps, tokens = Steps(), sequences()
    accelerator.register_for_checkpointing(steps)
    if (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir()):
        accelerator.load_state()
        naming.iteration = steps.done // STEPS_A_EPOCH
    while steps.done < epochs * STEPS_A_EPOCH:
        batch = tokens[batch_rows(0, steps.done, ROWS_OF_DATA, BATCH)]
        accelerator.backward(trained(input_ids=batch, labels=batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        steps.done += 1
        on_step(steps.done)
        if steps.done % STEPS_A_EPOCH == 0:
            accelerator.save_state()
    return accelerator.unwrap_model(trained), optimizer


CONTROLS = {"trainer": train_with_trainer, "accelerate": train_with_accelerate}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["benchmarks.fault_controls", "transformers.trainer", "accelerate", "torch._dynamo", "tests.faults.inject"]
)


def _child(name: str, folder: Path, epochs: int, kill_after: int, fault: Fault | None) -> None:
    descriptor = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    if fault is not None:
        install(fault)

    def on_step(step: int) -> None:
        if step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    trained, optimizer = CONTROLS[name](folder, epochs, on_step)
    if fault is not None:
        fault.at = 0
    state = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    tensors = [*trained.state_dict().values(), *map(torch.as_tensor, state)]
    digest = hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()
    (folder.parent / "end.json").write_text(json.dumps([digest, 0 if fault is None else fault.seen]))


class Control:
    """Run one control again and again, in folders of their own."""

    def __init__(self, name: str, root: Path):
        self.name, self.root, self.count = name, root, 0
        self.expected = {epochs: self.run(self.new(), epochs) for epochs in (EPOCHS, SHORT_EPOCHS)}
        assert None not in self.expected.values(), "the control does not run"

    def new(self) -> Path:
        """Make a fresh place for a run."""
        self.count += 1
        (self.root / str(self.count)).mkdir()
        return self.root / str(self.count) / "run"

    def run(
        self, folder: Path, epochs: int = EPOCHS, kill_after: int = 0, fault: Fault | None = None
    ) -> tuple[str, int] | str:
        """Run to the end: digest of all that was trained, and the uses of the disk; else `error` or `hang`."""
        end = folder.parent / "end.json"
        end.unlink(missing_ok=True)
        process = FORKS.Process(target=_child, args=(self.name, folder, epochs, kill_after, fault))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            return "hang"
        return tuple(json.loads(end.read_text())) if end.is_file() else "error"

    def resumed(self, folder: Path, epochs: int = EPOCHS) -> str:
        """Start a run again, and say how it ends."""
        ended = self.run(folder, epochs)
        shutil.rmtree(folder.parent)
        if isinstance(ended, str):
            return ended
        return "same" if ended[0] == self.expected[epochs][0] else "different"

    def points(self, only: tuple[str, ...]) -> int:
        """Count the uses of the disk in a short run."""
        return int(self.run(self.new(), SHORT_EPOCHS, fault=Fault("count", only=only))[1])
