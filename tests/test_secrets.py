"""No secret lies in the repository: every tracked text file is searched for what looks like one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LARGEST = 4 << 20
MADE_UP = "password|PASSWORD|9f8e7d6c5b4a"  # passwords that tests and examples make addresses with
# What secrets of well-known services look like; words in which none can hide are left out.
FORMS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}\b",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "an OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a key of this service": r"\blcl_[0-9a-f]{12}\.[A-Za-z0-9_-]{43}\b",
    "a password in an address": rf"\b[a-z][a-z0-9+]*://[^\s:/@'\"{{}}$<>]+:(?!(?:{MADE_UP})@)[^\s/@'\"{{}}$<>]{{8,}}@",
}
PATTERNS = {what: re.compile(form) for what, form in FORMS.items()}


def secrets_in(text: str) -> list[str]:
    """What kinds of secrets seem to stand in it."""
    return [what for what, pattern in PATTERNS.items() if pattern.search(text)]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout: git lists no files")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_tracked_file_holds_a_secret() -> None:
    found = []
    for file in tracked():
        if file.is_symlink() or not file.is_file() or file.stat().st_size > LARGEST:
            continue
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {what}" for what in secrets_in(text)]
    assert not found, "\n".join(found)


def test_what_holds_secrets_is_not_tracked() -> None:
    names = {file.relative_to(ROOT).as_posix() for file in tracked()}
    assert not {".env", ".lcl/key", "key"} & names
    assert not [name for name in names if name.endswith((".pem", ".p12", ".pfx", ".keystore"))]


def test_the_example_of_secrets_leaves_them_empty() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    secret = [name for name in values if re.search("PASSWORD|KEY|SECRET|TOKEN", name)]
    assert len(secret) >= 5
    assert {name: values[name] for name in secret} == dict.fromkeys(secret, "")


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        (("-----BEGIN RSA PRIVATE", " KEY-----\nMIIEpAIBAAKCAQEA1234567890"), "a private key"),
        (("AKIA", "ABCDEFGHIJKLMNOP"), "an AWS key"),
        (("ghp_", "a" * 36), "a GitHub token"),
        (("hf_", "a" * 34), "a Hugging Face token"),
        (("lcl_0123456789ab", "." + "x" * 43), "a key of this service"),
        (("postgresql://lcl:", "Tr0ub4dor&3@db/lcl"), "a password in an address"),
    ],
)
def test_a_secret_is_seen(parts: tuple[str, str], what: str) -> None:
    assert secrets_in(f"x = '{''.join(parts)}'") == [what]
    assert secrets_in(" ".join(parts)) == []
