"""Secrets are taken out of what is recorded. Alone: pytest tests/runtime/test_redaction.py"""

import random
import string

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
        ("https://host:8080/a@b", "https://***@b"),  # or a password with a slash
        ("https://name:pa@ss@host/a", "https://***@host/a"),
        ("https://name:pa/ss@host/a", "https://***@host/a"),
        ("https://name@pa@host/a", "https://***@host/a"),
        ("hf_oauth_eyJ0-a_b.c1D2.e3", "hf_oauth_***"),
        ("api_org_AbCdEfGhIjKl", "api_org_***"),
        ("ghp_0123456789abcdef", "ghp_***"),
        ("https://host/a?access_token=b&c=d#e", "https://host/a?access_token=***&c=d#e"),
        ("https://host/a?X-Amz-Signature=b", "https://host/a?X-Amz-Signature=***"),
        ("https://host/a?tokens", "https://host/a?tokens"),
    ],
)
def test_tokens_and_credentials_go_and_names_stay(text, kept):
    assert redact(text) == kept
    assert redact(kept) == kept


def test_every_part_of_a_record_is_seen():
    record = {TOKEN: [TOKEN, 3, (TOKEN, None)], "deep": {"a": {"b": TOKEN}}, "flag": True}
    assert redact(record) == {"hf_***": ["hf_***", 3, ["hf_***", None]], "deep": {"a": {"b": "hf_***"}}, "flag": True}


SIGNS = string.ascii_letters + string.digits + "-._~!$&'()*+,;=%@/:?#[]"


def test_no_password_in_a_url_is_shown_whatever_it_is_made_of():
    """As people type it: not percent-encoded, with every sign that a URL has."""
    for seed in range(1000):
        draw = random.Random(seed)
        secret = "".join(draw.choices(SIGNS, k=draw.randint(1, 20))) + "S3cret"
        scheme, user = draw.choice(("https", "ftp", "s3")), draw.choice(("user", "a.b", ""))
        slashes = draw.choice(("/", "//"))
        shown = redact(f"from {scheme}:{slashes}{user}:{secret}@host.example/path: not there")
        assert "S3cret" not in shown and shown.startswith(f"from {scheme}:{slashes}***@"), seed
        assert shown.endswith("host.example/path: not there") and redact(shown) == shown, seed


FAMILIES = ("hf_", "hf_oauth_", "hf_jwt_", "api_org_", "ghp_", "gho_", "github_pat_", "glpat-")


@pytest.mark.parametrize("prefix", FAMILIES)
def test_no_token_of_a_family_is_shown(prefix):
    for seed in range(100):
        draw = random.Random(seed)
        secret = "".join(draw.choices(string.ascii_letters + string.digits, k=draw.randint(20, 60))) + "1"
        around = draw.choice(("{}", "a {} b", "'{}'", "x={},", "/home/{}/a", "https://user:{}@host"))
        shown = redact(around.format(prefix + secret))
        assert secret not in shown and redact(shown) == shown, seed
