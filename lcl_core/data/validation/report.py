"""What an examination found, as JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field

from lcl_core.data.validation.findings import Finding
from lcl_core.data.validation.hashes import HashSet
from lcl_core.data.validation.histogram import Histogram
from lcl_core.data.validation.tally import Tally

SHOWN = 20


class GroupCounts(BaseModel):
    """Counts of one split of one source; both empty: items that could not be read at all."""

    split: str
    source: str
    documents: int
    images: int
    tokens: int
    reasons: dict[str, int]


class Report(BaseModel):
    """Counts, distributions and problems of a corpus."""

    documents: int = Field(description="records: documents and captioned images")
    kinds: dict[str, int] = Field(description="records by kind: matched, sequence, pair")
    images: int = Field(description="images named by records, each once a record")
    distinct_images: int = Field(description="different contents among the readable ones")
    image_bytes: int = Field(description="of the readable ones, encoded")
    image_formats: dict[str, int]
    image_traits: dict[str, int] = Field(description="what decoding had to see to: CMYK, palette, 16-bit …")
    tokens: int = Field(description="of all texts, in length_unit")
    length_unit: str = Field(description="tokens of the tokenizer given, else words")
    reasons: dict[str, int] = Field(description="problems by reason; an item may have several")
    groups: list[GroupCounts] = Field(description="the same by split and source")
    histograms: dict[str, Histogram]
    first: list[Finding] = Field(description="the first lines of the quarantine list")
    quarantined: int = Field(description="lines of the quarantine list")
    not_listed: int = Field(description="problems beyond the list's bound")
    duplicates_examined: float = Field(description="share of contents compared; below 1, counts are estimates")
    worker_deaths: int
    workers: int
    seconds: float


def assemble(tally: Tally, images: HashSet, documents: HashSet, length_unit: str, **facts: object) -> Report:
    """The report of a whole corpus. ``facts``: the fields that are no counts."""
    groups = [
        GroupCounts(
            split=split,
            source=source,
            documents=group.documents,
            images=group.images,
            tokens=group.tokens,
            reasons=dict(sorted(group.reasons.items())),
        )
        for (split, source), group in sorted(tally.groups.items())
    ]
    reasons: dict[str, int] = {}
    for group in groups:
        for reason, number in group.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + number
    counts = {
        "documents": sum(group.documents for group in groups),
        "kinds": dict(sorted(tally.kinds.items())),
        "images": sum(group.images for group in groups),
        "distinct_images": round(images.distinct),
        "image_bytes": tally.image_bytes,
        "image_formats": dict(tally.formats.most_common()),
        "image_traits": dict(tally.traits.most_common()),
        "tokens": sum(group.tokens for group in groups),
        "length_unit": length_unit,
        "reasons": dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
        "groups": groups,
        "histograms": tally.histograms,
        "duplicates_examined": min(images.share, documents.share),
    }
    return Report.model_validate({**counts, **facts})
