"""Name the files of a run, a checkpoint and a base that are hypergen's own.

A layout that many modules read has one place to change it; model and tokenizer files are named by the adapters. Imports
nothing.
"""

from __future__ import annotations

# A finished folder.
MANIFEST = "manifest.json"  # lists every other file; written last
RECORD = "hypergen.json"
METRICS = "metrics.jsonl"
TRAINING_TOKENS = "training_tokens.safetensors"
HELD_OUT_TOKENS = "held_out_tokens.safetensors"
SAMPLES = "samples"
REPORT = "report.html"
TOKENS, LOSS_MASK = "tokens", "loss_mask"  # the tensors of a file of sequences; the second one need not be there
CARD = "README.md"  # the model card
FIGURE = "grid"  # with the suffix that the modality's figure has

# A folder that is being written.
LOCK = ".lock"
TEMPORARY = ".tmp-"  # how temporary files and folders begin
CHECKPOINTS = "checkpoints"
STATE_TENSORS = "state.safetensors"  # of one checkpoint
STATE_NUMBERS = "state.json"

# What `generate` leaves until it is done, and `evaluate` writes.
UNFINISHED = ".unfinished"
RECORDS_JSON = "records.json"
RECORDS_MARKDOWN = "records.md"
