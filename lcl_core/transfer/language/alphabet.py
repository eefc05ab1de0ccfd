"""Which characters make words, which stand alone and, by being in neither, which are dropped.

Facts: every character of the basic plane was put to the reference tokenizer. Its tables are of about Unicode
6, so younger letters, most emoji and everything beyond the basic plane are dropped. Ranges in hexadecimal.
"""

from __future__ import annotations

# Marks and a few signs that count as letters besides the categories L and Nd.
_ALSO_LETTERS = """
2c2-2c5 2d2-2df 2e5-2eb 2ed 2ef-36f 375 384-385 3f6 483-487 55a-55f 591-5bd 5bf 5c1-5c2 5c4-5c5 5c7 615-61a 64b-65e
670 6d6-6e4 6e7-6ed 6fd-6fe 70f 711 730-74a 7a6-7b0 7eb-7f3 900-903 93c 93e-94e 951-955 962-963 981-983 9bc 9be-9c4
9c7-9c8 9cb-9cd 9d7 9e2-9e3 a01-a03 a3c a3e-a42 a47-a48 a4b-a4d a81-a83 abc abe-ac5 ac7-ac9 acb-acd b82 bbe-bc2
bc6-bc8 bca-bcd c01-c03 c3e-c44 c46-c48 c4a-c4d c55-c56 d3e-d44 d46-d48 e31 e34-e3a e47-e4e eb1 eb4-ebc ec8-ecd
1885-1886
"""

# Letters and digits that do not count.
_NOT_LETTERS = """
37f 528-52f 560 588 5ef 860-86a 870-887 889-88e 8a1 8ad-8c9 978 980 9fc af9 c34 c5a c5d c80 cdd d04 d54-d56 d5f
de6-def e86 e89 e8c e8e-e93 e98 ea0 ea8-ea9 eac 13f5 13f8-13fd 16f1-16f8 170d 171f 1878 191d-191e 19b0-19c0
19c8-19c9 1b4c 1c80-1c88 1c90-1cba 1cbd-1cbf 1cf2-1cf3 1cfa 2c2f 2c5f 312e-312f 31bb-31bf 4db6-4dbf 9fcd-9fff
a698-a69d a78f a794-a79f a7ab-a7ca a7d0-a7d1 a7d3 a7d5-a7d9 a7f2-a7f7 a8fd-a8fe a9e0-a9e4 a9e6-a9fe aa7e-aa7f
ab30-ab5a ab5c-ab69 ab70-abbf
"""

# Signs that are a token of their own.
_SIGNS = """
26 3d 5c 5e 7c 7e a1 a5-a9 ac ae-b1 b4 b6-b8 bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 5f3-5f4 600-603 606-60c 614 61b
61e-61f 66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2016-2017 2020-2023 2030-2038 203b 203e-2042 2044 207a-207e
208a-208e 20a4 2100-2101 2103-2106 2108-2109 2114 2116-2118 211e-2123 2125 2127 2129 212e 213a-213b 2140-2144
214a-214d 214f 2155-215e 2190-2426 2440-244a 2460-2b73 2b76-2b95 2b97-2bff 3001-3002 3012 30fb ff01-ff0f ff1a-ff20
ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6
"""


def _ranges(text: str) -> str:
    """Inside of a character class, from hexadecimal ranges."""
    ends = [each.split("-") for each in text.split()]
    return "".join("-".join(f"\\u{int(end, 16):04x}" for end in each) for each in ends)


# A soft hyphen inside a word is no more than a hint to the typesetter; it is dropped when the word is written.
LETTER = f"[[\\p{{L}}{_ranges(_ALSO_LETTERS)}\\xad]--[{_ranges(_NOT_LETTERS)}\\U00010000-\\U0010ffff]]"
LETTER_OR_DIGIT = f"[{LETTER}[\\p{{Nd}}--[{_ranges(_NOT_LETTERS)}\\U00010000-\\U0010ffff]]]"
SIGN = f"[{_ranges(_SIGNS)}]"
