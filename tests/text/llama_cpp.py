"""llama.cpp itself, through the package `xllamacpp`, in a process of its own: what it decodes greedily, and its pieces.

    ids = llama_cpp.greedy_ids(file, [[5, 7, 9]], 16)
    ids = llama_cpp.tokenize(file, ["a text"])

The cache is fp32 and attention is computed in fp32, as here. Run as a script it answers the requests of its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

CONTEXT = 64


def greedy_ids(file: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Completions of at most `count` ids of each prompt; an end token ends one and is left out."""
    options = {"n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    return [answer["tokens"] for answer in _ask(file, "/completion", [{"prompt": one} | options for one in prompts])]


def tokenize(file: Path, texts: list[str]) -> list[list[int]]:
    """The ids of each text, with those that the file puts around it."""
    bodies = [{"content": text, "add_special": True, "parse_special": True} for text in texts]
    return [answer["tokens"] for answer in _ask(file, "/tokenize", bodies)]


def _ask(file: Path, place: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    request = json.dumps({"file": str(file), "place": place, "bodies": bodies})
    command = [sys.executable, "-P", __file__]  # the modules beside it stay hidden
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("answers ")]
    assert done.returncode == 0 and lines, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(lines[-1].removeprefix("answers "))
    return answers


def _serve(file: str, place: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.port = 0  # any that is free
    server = xllamacpp.Server(params)
    return [_post(server.listening_address + place, body) for body in bodies]


def _post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    print("answers " + json.dumps(_serve(**json.load(sys.stdin))), flush=True)
    os._exit(0)  # its threads need no farewell
