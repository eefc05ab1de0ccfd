"""Corpora, tokenizers and the stream of samples. Knows no torch; packing and loading live in their own modules."""

from lcl_core.data.corpus import SAMPLE_CORPUS, Corpus, open_corpus
from lcl_core.data.document import Document, ImageSegment, TextSegment
from lcl_core.data.interleave import render_mmc4, render_pair
from lcl_core.data.pairs import Pair
from lcl_core.data.samples import Sample, Skipped
from lcl_core.data.stream import SampleStream
from lcl_core.data.tokenizer import SpecialTokens, Tokenizer, clip_tokenizer, load_tokenizer, train_bpe

__all__ = [
    "SAMPLE_CORPUS",
    "Corpus",
    "Document",
    "ImageSegment",
    "Pair",
    "Sample",
    "SampleStream",
    "Skipped",
    "SpecialTokens",
    "TextSegment",
    "Tokenizer",
    "clip_tokenizer",
    "load_tokenizer",
    "open_corpus",
    "render_mmc4",
    "render_pair",
    "train_bpe",
]
