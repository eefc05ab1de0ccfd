"""No secret lies in the repository: every tracked text file, and whatever a commit ever added, is searched for one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parent.parent
LARGEST = 4 << 20
MADE_UP = "password|PASSWORD|9f8e7d6c5b4a|hush-hush"  # passwords that tests and examples make addresses with
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
# Addresses of computers are no secrets, a password in an address is among ours, and the rest are searched for slowly
# and belong to clouds that nothing here speaks to.
LEFT_OUT = {
    "BasicAuthDetector", "CloudantDetector", "IbmCloudIamDetector", "IbmCosHmacDetector", "IPPublicDetector",
    "SoftlayerDetector",
}  # fmt: skip


def detectors() -> dict[str, list[re.Pattern[str]]]:
    """The patterns of detect-secrets by the kind of secret."""
    known = get_mapping_from_secret_type_to_class()
    return {
        kind: list(made().denylist)
        for kind, made in known.items()
        if issubclass(made, RegexBasedDetector) and made.__name__ not in LEFT_OUT
    }


PATTERNS = {**detectors(), **{what: [re.compile(form)] for what, form in FORMS.items()}}


def secrets_in(text: str) -> list[str]:
    """What kinds of secrets seem to stand in it."""
    return [what for what, patterns in PATTERNS.items() if any(pattern.search(text) for pattern in patterns)]


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
        content = file.read_bytes()
        if b"\0" in content[:8192]:  # as git tells binary files
            continue
        text = content.decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {what}" for what in secrets_in(text)]
    assert not found, "\n".join(found)


def secrets_in_history() -> dict[str, list[str]]:
    """Kinds of secrets by commit, in what each commit of the present branch says, adds and removes."""
    command = ["git", "log", "--patch", "--unified=0", "--no-color", "--no-ext-diff", "--format=commit %H%n%B", "HEAD"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout: git has no history")
    text = listed.stdout.decode("utf-8", "replace")
    if not secrets_in(text):  # all at once is a third faster than one by one
        return {}
    commits = re.split(r"^commit (?=[0-9a-f]{40}$)", text, flags=re.MULTILINE)
    found = {commit[:12]: secrets_in(commit) for commit in commits}
    return {commit: kinds for commit, kinds in found.items() if kinds}


def test_no_commit_ever_held_a_secret() -> None:
    """What was committed and removed again can still be read by everybody; such a secret must be made invalid."""
    assert secrets_in_history() == {}


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
