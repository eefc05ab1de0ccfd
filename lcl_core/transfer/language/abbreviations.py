"""Which full stops belong to a word, as the Penn Treebank tokenizer sees it.

Facts, found by asking the reference tokenizer about 38,000 words and candidate abbreviations, one by one.
The words are patterns: a full stop inside one is escaped.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


# Before anything: "Mr. Smith", "Jan. 5", "Acme Inc. said".
ALWAYS = _words(r"""
    adj adm adv al ala apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq ed\.d est etc ext feb fla fri ft ga gen gov
    govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo
    mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph ph\.d plc pres prof profs pvt rd rep reps rev
    rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt
    wed wis wisc wm wyo
""")

# Only with a capital: in lower case these are words that may end a sentence.
CAPITALISED = _words("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH")

# Only in lower case or with one capital.
NOT_SHOUTED = _words("mfg mtg pte pty Mfg Mtg Pte Pty")

# Only before a number: "Fig. 3", "no. 7".
BEFORE_A_NUMBER = _words("art ca fig figs no nos op pp prop")

# A single letter and its full stop part where one of these opens the next sentence: "Vitamin C. The".
OPENERS = _words("""
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once
    One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""")
