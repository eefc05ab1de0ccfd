"""Scorers of dialogue benchmarks: each reads the official files and scores stored answers by the published rule."""

from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores
from lcl_core.transfer.answers.registry import SCORERS, scorer

__all__ = ["SCORERS", "Answered", "Question", "Scorer", "Scores", "scorer"]
