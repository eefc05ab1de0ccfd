"""Toy training: a chain of hashes. A lost or repeated step changes every later loss."""

from __future__ import annotations

import hashlib


def initial_state(seed: int) -> str:
    return hashlib.sha256(f"seed {seed}".encode()).hexdigest()


def advance(state: str, step: int) -> str:
    """The state after ``step``, from the one before it."""
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def loss_of(state: str) -> float:
    return int(state[:13], 16) / 16**13


def weights_of(state: str) -> bytes:
    """Large enough that they are not written in one go."""
    return state.encode() * 8192


def expected_curve(seed: int, steps: int) -> tuple[list[float], str]:
    """The losses of steps 1 to ``steps``, and sha256 of the weights in the end."""
    state, losses = initial_state(seed), []
    for step in range(1, steps + 1):
        state = advance(state, step)
        losses.append(loss_of(state))
    return losses, hashlib.sha256(weights_of(state)).hexdigest()
