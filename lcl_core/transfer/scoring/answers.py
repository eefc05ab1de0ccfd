"""Sheets of answers to a dialogue benchmark: its published rule, with what bootstrap and paired tests draw.

A sample is a stored :class:`lcl_core.transfer.answers.Answered`; the sheet's facts name the ``benchmark``. The
majority is one answer to everything: the one that is right most often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcl_core.transfer.answers import Answered, scorer
from lcl_core.transfer.metrics import Statistic, mean_of
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.scoring.chances import chance_of
from lcl_core.transfer.scoring.counted import counted
from lcl_core.transfer.scoring.measure import Measure

Samples = Sequence[dict[str, Any]]


def answer_measures(sheet: Sheet, samples: Samples) -> list[Measure]:
    """The measures of one sheet."""
    name = sheet.facts["benchmark"]
    records = [Answered.from_dict(sample) for sample in samples]
    scores = scorer(name).score(records)
    majority = scorer(name).score(_all_alike(records)).metrics
    chance = chance_of(name, records)

    def measure(metric: str, units: Sequence[str], values: Any, statistic: Statistic) -> Measure:
        return Measure(metric, units, values, statistic, chance.get(metric), majority.get(metric))

    found = [measure(*each) for each in counted(name, records, scores)]
    known = {each.metric for each in found}
    for metric, units in scores.samples.items():
        if metric not in known:
            found.append(measure(metric, list(units), np.array(list(units.values())), mean_of))
    return found


def _all_alike(records: Sequence[Answered]) -> list[Answered]:
    """Every question answered with what is right most often."""
    common, _ = Counter(truth for record in records for truth in record.question.truth).most_common(1)[0]
    return [Answered(record.question, common) for record in records]
