"""Corpora, tokenizers and the stream of samples. Knows no torch; packing and loading live in their own modules."""

from lcl_core.data.corpus.base import SAMPLE_CORPUS, Corpus
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.records import CaptionPair, Document, ImageSegment, TextSegment
from lcl_core.data.sampling.document_plan import render_pair
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.data.tokenizer import SpecialTokens, Tokenizer, clip_tokenizer, load_tokenizer, train_bpe

__all__ = [
    "SAMPLE_CORPUS",
    "CaptionPair",
    "Corpus",
    "Document",
    "ImageSegment",
    "Sample",
    "SampleStream",
    "SkippedSample",
    "SpecialTokens",
    "TextSegment",
    "Tokenizer",
    "clip_tokenizer",
    "load_tokenizer",
    "open_corpus",
    "render_pair",
    "train_bpe",
]
