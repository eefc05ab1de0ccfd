"""ROUGE-L (Lin 2004) of a caption: the longest common subsequence with its references."""

from __future__ import annotations

# Recall weighs more than precision, as in the COCO evaluation.
BETA = 1.2


def rouge_l(hypothesis: list[str], references: list[list[str]]) -> float:
    """F-measure of the best precision and the best recall over the references."""
    made = hypothesis or [""]  # the reference counts an empty caption as one empty word
    common = [(longest_common(made, reference or [""]), len(reference) or 1) for reference in references]
    precision = max(length for length, _ in common) / len(made)
    recall = max(length / size for length, size in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest subsequence, gaps allowed, that two lists share."""
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for place, rival in enumerate(other, start=1):
            above = row[place]
            row[place] = corner + 1 if word == rival else max(above, row[place - 1])
            corner = above
    return row[-1]
