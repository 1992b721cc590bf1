"""Devices by name, and the machine that results depend on. Alone: pytest tests/runtime/test_devices.py"""

import json

import pytest
import torch

from hypergen.errors import InputError
from hypergen.runtime import devices
from hypergen.runtime.devices import describe_machine, has_bf16_units, pick_device, warn_about_changes

CPU = torch.device("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(InputError, match="--device cuda: this machine has only a cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert [str(pick_device(name)) for name in ("auto", "cpu", "cuda:1")] == ["cuda", "cpu", "cuda:1"]
    with pytest.raises(InputError, match="--device mps: this machine has cuda"):
        pick_device("mps")
    with pytest.raises(InputError, match="allowed are auto"):
        pick_device("tape")


@pytest.mark.parametrize("units", [{}, {"avx2": True}, {"avx512_bf16": False}])
def test_bf16_without_units_is_warned_about(units, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert not has_bf16_units(CPU)
    pick_device("cpu", "bf16")
    told = "--precision bf16: this cpu has no bf16 units and is slower with it than with fp32"
    assert capsys.readouterr().err == f"hypergen: {told}\n"
    pick_device("cpu", "fp32")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("unit", devices.BF16_UNITS)
def test_bf16_with_units_is_not(unit, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, unit: True})
    assert has_bf16_units(CPU) and not has_bf16_units(torch.device("mps"))
    pick_device("cpu", "bf16")
    assert capsys.readouterr().err == ""


def test_a_gpu_that_only_imitates_bf16_has_no_units(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or False)
    assert not has_bf16_units(torch.device("cuda")) and asked == [{"including_emulation": False}]


def test_the_machine_is_described_in_plain_values(monkeypatch):
    machine = describe_machine(CPU)
    assert machine["device"] == "cpu" and machine["torch"] == torch.__version__
    assert json.loads(json.dumps(machine)) == machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert describe_machine(CPU) == machine | {"threads": 77}


def test_only_what_changed_is_warned_about(capsys):
    machine = {"threads": 2, "torch": "2.14"}
    warn_about_changes("--resume", machine, machine)
    assert capsys.readouterr().err == ""
    warn_about_changes("--resume", {"threads": 4, "torch": "\x1b2.14"}, machine)
    changes = "threads 4 -> 2, torch 2.14 -> 2.14"
    assert capsys.readouterr().err == f"hypergen: --resume: not bit for bit: {changes}\n"
    warn_about_changes("--resume", {}, {"threads": 2})
    assert "threads None -> 2" in capsys.readouterr().err
