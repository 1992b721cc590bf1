"""A decoding step in native code: `native.cpp`, compiled once by the C++ compiler there is, kept in the user's cache.

A step of a small model is thirty products whose weights could be read in a fraction of the time that calling torch for
each takes. Here it is one call, on the threads that torch would use. What it gives for a row depends neither on the
rows beside it nor on the number of threads.
`draw` samples a token in one pass over the logits where torch takes thirty.
Does not know: architectures, prompts (`lean` computes those), strategies, GPUs.

Shape letters: as in `lean`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from hypergen.lean import LeanModel, LeanState, Product
    from hypergen.sampling import Filters

SOURCE = Path(__file__).with_name("native.cpp")
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of logits; bf16 rounds what is fp32 in the native step
PROMPT, TRIED = 3, 2  # tokens that logits are compared after
BYTES_A_THREAD = 2**20  # of weights; reading them takes it 40 us, waiting for another one 1 us (measured)
ROWS_AS_LONG_AS_READING = 8  # whose arithmetic takes as long as reading the weights (measured)
LOGIT_BYTES_A_THREAD = 2**17  # drawing from them takes a thread 100 us (measured)
SECONDS_TO_COMPILE = 120  # it takes three; a compiler that hangs is none
ACTIVATIONS = {"silu": 0, "tanh_gelu": 1, "quick_gelu": 2}  # `Activation` in native.cpp


class NativeError(Exception):
    """There is no native code here; the message says why."""


def with_native_step(model: LeanModel) -> LeanModel:
    """The model with a native step if that can be had and gives the same logits; else as it is, and why on stderr
    where one could be expected."""
    if model.embedding.device.type != "cpu" or (library := _library()) is None:
        return model
    fast = replace(model, native=NativeStep(model, library))
    difference = _difference(model, fast)
    tolerance = TOLERANCES[model.embedding.dtype]
    if not difference <= tolerance:
        _tell(f"logits differ by {difference:.1e} of the largest, more than {tolerance:.0e}")
        return model
    return fast


def draw(logits: Tensor, kept: Filters, uniform: Tensor) -> Tensor | None:
    """Logits (B, V) and numbers from 0 to 1 (B,) -> ids (B,): `sampling.candidates` and the draw in one call; None
    where there is no native code."""
    if logits.device.type != "cpu" or (library := _library()) is None:
        return None
    logits = logits.float().contiguous()
    rows, num_tokens = logits.shape
    filters = _Filters(
        num_tokens, min(kept.top_k or 0, num_tokens), max(kept.temperature, 1e-30), kept.top_p or 1.0, kept.min_p or 0.0
    )
    tokens = torch.empty(rows, dtype=torch.long)
    threads = min(torch.get_num_threads(), 1 + logits.nbytes // LOGIT_BYTES_A_THREAD, rows)
    library.draw(logits.data_ptr(), ctypes.byref(filters), uniform.data_ptr(), rows, tokens.data_ptr(), threads)
    return tokens


def _tell(reason: str) -> None:
    print(f"hypergen: decoding without native steps, which are faster: {reason}", file=sys.stderr)


def _difference(model: LeanModel, fast: LeanModel) -> float:
    """Between the logits of both, relative to the largest, after steps of two rows of which one is padded."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.head.weight.shape[1], (TRIED + PROMPT, 2), generator=draw)
    prompt, pads, logits = tokens[:PROMPT].T.contiguous(), torch.tensor([0, 1]), []
    for either in (model, fast):
        _, state = either.start(prompt, PROMPT + TRIED, pads)
        for token in tokens[PROMPT:]:
            given, state = either.step(token, state)
        logits.append(given.float())
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())


class _Product(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("width_in", ctypes.c_int64),
        ("width_out", ctypes.c_int64),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Product) for name in ("attend", "mix", "widen", "gate", "narrow")),
        ("scale", ctypes.c_float),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("embedding", "places", "rotation")),
        ("blocks", ctypes.POINTER(_Block)),
        ("head", _Product),
        *((name, ctypes.c_int64) for name in ("num_blocks", "num_tokens", "width", "heads", "groups", "head_width")),
        *((name, ctypes.c_int64) for name in ("activation", "centred")),
        ("epsilon", ctypes.c_float),
    )


class _Filters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_tokens", "top_k")),
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
    )


class NativeStep:
    """The step of a packed model, whose weights it copies."""

    def __init__(self, model: LeanModel, library: ctypes.CDLL):
        self._library = library
        self._lanes = self._library.lanes()
        self._panel = 2 * self._lanes
        self._kept: list[Any] = []  # what the structures point to
        self._is_bf16 = model.embedding.dtype == torch.bfloat16
        blocks = []
        for block in model.blocks:
            gate, widen = _Product(), slice(None)
            if model.is_gated:
                half = block.widen.weight.shape[1] // 2
                gate, widen = self._product(block.widen, slice(half)), slice(half, None)
            attend, mix, narrow = (self._product(part) for part in (block.attend, block.mix, block.narrow))
            blocks.append(_Block(attend, mix, self._product(block.widen, widen), gate, narrow, block.scale))
        self._blocks = (_Block * len(blocks))(*blocks)
        self._nbytes = model.nbytes
        self._num_logits = model.head.weight.shape[1]
        self._model = _Model(
            embedding=self._pointer(model.embedding),
            places=self._pointer(model.places),
            rotation=self._pointer(None if model.rotation is None else model.rotation.float()),
            blocks=self._blocks,
            head=self._product(model.head),
            num_blocks=len(blocks),
            num_tokens=len(model.embedding),
            width=model.embedding.shape[1],
            heads=model.num_heads,
            groups=model.num_groups,
            head_width=model.head_width,
            activation=ACTIVATIONS[model.activation],
            centred=model.norm == "layer",
            epsilon=model.epsilon,
        )

    def arrange(self, parts: Tensor, room: int) -> Tensor:
        """Keys and values (2, B, G, P, E) -> (2, B, G, C, E) with C of `room` or a little more, for `__call__`.

        Of each C keys so many as a processor's register holds lie together, number by number.
        """
        room += -room % self._lanes
        length, lanes = parts.shape[3], self._lanes
        arranged = parts.new_empty(*parts.shape[:3], room, parts.shape[4])
        arranged[1, :, :, :length] = parts[1]
        groups = arranged[0].view(*parts.shape[1:3], room // lanes, parts.shape[4], lanes)
        filled, rest = parts[0].split([length - length % lanes, length % lanes], 2)
        groups[:, :, : length // lanes] = filled.unflatten(2, (-1, lanes)).mT
        if length % lanes:
            groups[:, :, length // lanes, :, : length % lanes] = rest.mT
        return arranged

    def __call__(self, token: Tensor, state: LeanState) -> Tensor:
        """(B,) ids and a state from `arrange` that has room for them -> logits (B, V) in fp32.

        Raises:
            IndexError: an id is none of the model's.
        """
        rows, token = len(token), token.long().contiguous()
        logits = torch.empty(rows, self._num_logits)
        caches = (ctypes.c_void_p * len(state.recent))(*(part.data_ptr() for part in state.recent))
        failed = self._library.decode(
            ctypes.byref(self._model),
            self._is_bf16,
            token.data_ptr(),
            None if state.pads is None else state.pads.data_ptr(),
            caches,
            rows,
            state.length,
            state.recent[0].shape[3],
            logits.data_ptr(),
            self._num_threads(rows),
        )
        if failed:
            raise IndexError(f"token ids {token.tolist()}: must be 0 to {self._model.num_tokens - 1}")
        return logits

    def _num_threads(self, rows: int) -> int:
        """Those of torch, but no more than have something to do: they wait for each other five times a block."""
        useful = 1 + self._nbytes * (1 + rows // ROWS_AS_LONG_AS_READING) // BYTES_A_THREAD
        return min(torch.get_num_threads(), useful)

    def _product(self, product: Product, columns: slice = slice(None)) -> _Product:
        weight, bias = product.weight[:, columns], None if product.bias is None else product.bias[columns].float()
        padded = F.pad(weight, (0, -weight.shape[1] % self._panel))
        panels = padded.unflatten(1, (-1, self._panel)).transpose(0, 1)
        return _Product(self._pointer(panels), self._pointer(bias), *weight.shape)

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled `native.cpp`; None where there is none, and why on stderr where one could be expected."""
    if sys.platform != "linux":
        return None
    try:
        library = _load()
    except NativeError as error:
        _tell(str(error))
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.lanes.restype = library.decode.restype = number
    library.decode.argtypes = [pointer, number, pointer, pointer, pointer, number, number, number, pointer, number]
    library.draw.restype, library.draw.argtypes = None, [pointer, pointer, pointer, number, pointer, number]
    return library


def _load() -> ctypes.CDLL:
    """The library for this processor: the one in the cache, or a new one."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (c++, g++ or $CXX)")
    made_of = "\n".join((SOURCE.read_text(), compiler, *OPTIONS, platform.platform(), _processor()))
    name = f"native-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    try:
        path = _folder() / name
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise NativeError(f"{name}: {error}") from error


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            subprocess.run(
                [*compiler.split(), *OPTIONS, "-o", str(made), str(SOURCE)],
                check=True, capture_output=True, text=True, timeout=SECONDS_TO_COMPILE,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            told = (error.stderr.strip() or f"status {error.returncode}").splitlines()
            raise NativeError(f"{compiler}: {told[0]}") from error
        except subprocess.TimeoutExpired as error:
            raise NativeError(f"{compiler}: not done after {SECONDS_TO_COMPILE} s") from error
        os.replace(made, path)  # two processes may do this at once


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypergen"


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
