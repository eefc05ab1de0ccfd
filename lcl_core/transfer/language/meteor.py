"""METEOR 1.5 (Denkowski and Lavie 2014), through its Java program where that is present.

The program and its paraphrase tables come with the Python package ``pycocoevalcap``; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lcl_core.errors import UserError

_BAR = "|||"


@dataclass(frozen=True)
class Program:
    """Where Java and METEOR's archive are."""

    java: str
    jar: Path


def find_program() -> Program | str:
    """METEOR, or why it is not to be had, in a sentence for the user."""
    java = shutil.which("java")
    if java is None:
        return "METEOR is left out: there is no java on the path"
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return Program(java, jar)
    return "METEOR is left out: pip install pycocoevalcap, which brings meteor-1.5.jar"


def meteor(
    program: Program, hypotheses: list[list[str]], references: list[list[list[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """Score of the corpus, which is no mean, and [N] of each caption.

    Raises:
        UserError: ``meteor_failed``, when the program ends before it has answered.
    """
    # fmt: off
    command = [
        program.java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(program.jar),
        "-", "-", "-stdio", "-l", "en", "-norm",
    ]
    # fmt: on
    with subprocess.Popen(
        command, cwd=program.jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            return _converse(process.stdin, process.stdout, hypotheses, references)
        except (BrokenPipeError, ValueError) as error:
            raise UserError(f"METEOR's Java program gave up ({error})", code="meteor_failed") from None
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # what was not sent is lost on purpose
                process.stdin.close()


def _converse(
    said: IO[bytes], heard: IO[bytes], hypotheses: list[list[str]], references: list[list[list[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """One line a caption gives its statistics; one line with all statistics gives all scores, the corpus last."""

    def ask(line: str) -> None:
        said.write(f"{line}\n".encode())
        said.flush()

    def answer() -> str:
        line = heard.readline().decode().strip()
        if not line:
            raise ValueError("it ended without an answer")
        return line

    statistics = []
    for hypothesis, known in zip(hypotheses, references, strict=True):
        ask(f" {_BAR} ".join(["SCORE", *(_line(reference) for reference in known), _line(hypothesis)]))
        statistics.append(answer())
    ask(f" {_BAR} ".join(["EVAL", *statistics]))
    each = [float(answer()) for _ in statistics]
    return float(answer()), np.array(each, np.float64)


def _line(tokens: list[str]) -> str:
    return " ".join(tokens).replace(_BAR, "").replace("  ", " ")
