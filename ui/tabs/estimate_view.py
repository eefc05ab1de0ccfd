"""How an estimate is drawn: what a run would take, how sure that is, and what it rests on."""

from __future__ import annotations

from typing import Any

from ui.html import duration, esc, facts, note, run_link

SURE = {
    "measured": ("As measured", "runs of this very setup told the rate"),
    "scaled": ("Scaled", "from runs of other sizes"),
    "assumed": ("A guess", "no run has told a rate yet"),
}
WHEN_VALID = note("An estimate follows once the spec is valid.")
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "average": "moving average",
    "copies": "copies",
    "activations": "activations",
    "process": "the process itself",
}


def draw_estimate(found: dict[str, Any]) -> str:
    """Time and memory first, each with its range; then counts; the reasons can be opened."""
    word, why = SURE[found["certainty"]]
    return (
        f'<section class="lcl-estimate" aria-label="Estimate"><header><h3>This run would take</h3>'
        f'<p class="lcl-estimate__sure lcl-estimate__sure--{esc(found["certainty"])}"><b>{word}</b> {why}</p></header>'
        f"{_main(found)}{facts(_counts(found))}{_basis(found)}</section>"
    )


def size(count: float) -> str:
    """Bytes for people: ``1.5 GiB``, ``73 MiB``."""
    for unit, words in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.3g} {words}" if count < 1000 * unit else f"{count / unit:,.0f} {words}"
    return f"{count / 1024:.3g} KiB"


def short(value: float) -> str:
    """``6411265`` -> ``6.41 M``."""
    for unit, prefix in _UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g} "


def _main(found: dict[str, Any]) -> str:
    seconds, memory = found["seconds"], found["memory_bytes"]
    where = "of a GPU, a process" if found["device"] == "gpu" else "a process"
    return (
        '<div class="lcl-estimate__main">'
        f"<p><b>{esc(duration(seconds['expected']))}</b> <span>{_span(seconds, duration)}</span></p>"
        f"<p><b>{esc(size(memory['expected']))}</b> <span>peak memory {where}, {_span(memory, size)}</span></p></div>"
    )


def _span(found: dict[str, Any], words: Any) -> str:
    low, high = words(found["low"]), words(found["high"])
    return esc(low if low == high else f"{low} to {high}")


def _counts(found: dict[str, Any]) -> list[tuple[str, str]]:
    samples, step = found["samples"], found["per_step"]
    return [
        ("Parameters", short(found["parameters"]).strip()),
        ("Operations", f"{short(found['flops'])}FLOP"),
        ("Operations a step", f"{short(found['flops_per_step'])}FLOP"),
        ("Pictures", f"{short(samples['images']).strip()} ({step['images']:,.0f} a step)"),
        ("Documents", f"{short(samples['documents']).strip()} ({step['documents']:,.0f} a step)"),
        ("Tokens", f"{short(samples['tokens']).strip()} ({step['tokens']:,.0f} a step)"),
        ("A checkpoint", size(found["checkpoint_bytes"])),
        ("Disk in the end", size(found["disk_bytes"])),
    ]


def _basis(found: dict[str, Any]) -> str:
    sentences = "".join(f"<li>{_linked(sentence, found['runs'])}</li>" for sentence in found["basis"])
    parts = found["memory_parts"]
    counted = ", ".join(f"{words} {size(parts[name])}" for name, words in PARTS.items() if parts[name])
    return (
        f"<details><summary>What this rests on</summary><ul>{sentences}<li>Counted: {esc(counted)}.</li></ul></details>"
    )


def _linked(sentence: str, runs: list[str]) -> str:
    """The runs that it names lead to themselves."""
    words = esc(sentence)
    for run_id in runs:
        words = words.replace(esc(run_id), run_link(run_id))
    return words
