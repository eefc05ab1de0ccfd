"""What a tokenizer sees of a text."""

import html
import json

import ftfy
import pytest

from lcl_core.data.tokenizer import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("  The   quick\tbrown\nfox \r\n", "the quick brown fox"),
        ("Tom &amp; Jerry &amp;lt;b&amp;gt;", "tom & jerry <b>"),
        ("< is &amp;lt;", "< is <"),
        ("Itâ€™s cafÃ©", "it's café"),
        ("“curly” ﬁ ＦＵＬＬ", '"curly" fi full'),
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\ud800b", "a\ufffdb"),
        ("&nbsp;x&nbsp;", "x"),
    ],
)
def test_clean_text(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize("text", ["".join(map(chr, range(32, 127))).replace("&", ""), "a  b", "<b>", "~`^", "x" * 999])
def test_the_short_cut_for_plain_text_changes_nothing(text):
    slow = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean_text(text) == " ".join(slow.split()).lower()


def test_reference_texts(golden):
    cases = json.loads((golden / "data" / "tokenizer.json").read_text(encoding="utf-8"))["encode"]
    for case in cases:
        assert clean_text(case["text"]) == case["clean"]
