"""Pick the device, and describe the machine as far as results depend on it."""

from __future__ import annotations

import platform
from typing import Any

import torch

from hypergen.config import Precision
from hypergen.errors import InputError
from hypergen.runtime.console import warn
from hypergen.version import __version__


def warn_about_changes(where: str, former: dict[str, Any], machine: dict[str, Any]) -> None:
    """Warn where a job continues on another machine than it began on, so that its last bits may differ.

    Args:
        where: the job, for the message.
        former: the machine on which it began, as `describe_machine` gives it.
        machine: the present one.
    """
    changes = [f"{name} {former.get(name)} -> {new}" for name, new in machine.items() if former.get(name) != new]
    if changes:
        warn(f"{where}: not bit for bit: {', '.join(changes)}")


BF16_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2", "avx_ne_convert", "bf16", "sve_bf16")  # a CPU's names for them


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether the device computes bf16 products itself instead of imitating them in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(map(torch.cpu.get_capabilities().get, BF16_UNITS))


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describe machine and code as far as the last bits of a training depend on them (pytorch/pytorch#88718)."""
    return {
        "device": device_name(device),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hypergen": __version__,
    }


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, else the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def pick_device(name: str, precision: Precision = "fp32") -> torch.device:
    """Pick a device by name; `auto` is cuda, mps or cpu, whichever the machine has. Warn where it has no bf16 units.

    Raises:
        InputError: there is no such name, or the machine lacks the device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = accelerator or torch.device("cpu") if name == "auto" else torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: allowed are auto, cpu, cuda, cuda:N, mps") from error
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        raise InputError(f"--device {name}: this machine has {accelerator or 'only a cpu'}")
    if precision == "bf16" and device.type == "cpu" and not has_bf16_units(device):
        warn("--precision bf16: this cpu has no bf16 units and is slower with it than with fp32")
    return device
