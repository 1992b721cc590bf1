"""What reading a hostile file costs, measured in a process of its own that imports no more than the reader needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux does")
MOST_SECONDS, MOST_MEGABYTES = 1, 200

READERS = {
    "text": "from hypergen.text import sources as files; from hypergen.text.config import Settings\n"
    "call = lambda: files.read(sys.argv[1], Settings(), int(sys.argv[2]))",
    "image": "from hypergen.image.sources import read\ncall = lambda: list(read(sys.argv[1], int(sys.argv[2])))",
    "config": "from hypergen.cli.arguments import with_config\ncall = lambda: with_config(['--config', sys.argv[1]])",
    "record": "from pathlib import Path; from hypergen.registry import identify\n"
    "call = lambda: identify(Path(sys.argv[1]).parent)",
}
PROGRAM = """import json, sys, time
{reader}
started = time.process_time()
try: call(); said = ""
except ValueError as error: said = str(error)
seconds = time.process_time() - started
megabytes = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([said, seconds, megabytes, "torch" in sys.modules]))
"""


def refusal(reader: str, path: Path, skip_bad: int = 0) -> str:
    """The one line with which a source is refused, for less than a second and 200 MB."""
    command = [sys.executable, "-c", PROGRAM.format(reader=READERS[reader]), str(path), str(skip_bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, seconds, megabytes, torch_imported = json.loads(done.stdout)
    assert said and "\n" not in said and not torch_imported
    assert seconds < MOST_SECONDS and megabytes < MOST_MEGABYTES
    return said
