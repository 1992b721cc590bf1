"""Secrets are taken out of what is recorded. Alone: pytest tests/runtime/test_redaction.py"""

import pytest

from hypergen.runtime.redaction import redact

TOKEN = "hf_" + "a1" * 15


@pytest.mark.parametrize(
    "text, kept",
    [
        (f"a {TOKEN} b", "a hf_*** b"),
        (f"x{TOKEN}", "xhf_***"),
        ("hf_" + "a" * 34, "hf_***"),
        ("hf_checkpoints/step1", "hf_checkpoints/step1"),
        ("https://user:word@host/a", "https://***@host/a"),
        ("https:/user:word@host/a", "https:/***@host/a"),
        ("ftp://name@host", "ftp://***@host"),
        ("me@host", "me@host"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_tokens_and_credentials_go_and_names_stay(text, kept):
    assert redact(text) == kept
    assert redact(kept) == kept


def test_every_part_of_a_record_is_seen():
    record = {TOKEN: [TOKEN, 3, (TOKEN, None)], "deep": {"a": {"b": TOKEN}}, "flag": True}
    assert redact(record) == {"hf_***": ["hf_***", 3, ["hf_***", None]], "deep": {"a": {"b": "hf_***"}}, "flag": True}
