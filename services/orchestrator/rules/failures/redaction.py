"""Takes what looks like a secret out of a text that a person will see. Pure."""

import re

HIDDEN = "***"

_WORD = (
    r"(?:token|secret|passw(?:or)?d|pwd|api[-_.]?key|[-_.]key|\bkey|_auth(?:token)?|authorization|bearer|credentials?)"
)
_RULES = (
    # //user:password@host, and //token@host
    (re.compile(r"(//)[^\s/@'\"]{1,300}@"), rf"\1{HIDDEN}@"),
    # Shapes that the issuers of tokens chose so that they can be told.
    (
        re.compile(
            r"\b(?:npm_|gh[pousr]_|github_pat_|glpat-|sk[-_]|pk_(?:live|test)_|xox[a-z]-|AKIA|AIza|eyJ)[\w.-]{12,400}"
        ),
        HIDDEN,
    ),
    # name=value and name: value, quoted or not
    (
        re.compile(rf"(?i)({_WORD}[\w-]{{0,30}}[\"']?\s?[=:]\s?)(?:Bearer |Basic )?[\"']?[^\s\"',;&]{{4,400}}"),
        rf"\1{HIDDEN}",
    ),
    # token VALUE, where VALUE is long and no word of a sentence
    (
        re.compile(rf"(?i)({_WORD}[\w-]{{0,30}}[\"']?\s(?:is\s|was\s)?[\"'(]?)(?=\S{{0,100}}\d)[\w+/=.-]{{16,400}}"),
        rf"\1{HIDDEN}",
    ),
    # anything long enough to be a key by itself: hexadecimal, or base64 with digits in it
    (re.compile(r"\b[0-9a-fA-F]{32,400}\b"), HIDDEN),
    (re.compile(r"(?<![\w+/])(?=[A-Za-z+/]{0,60}\d)[A-Za-z0-9+]{40,400}={0,2}(?![\w+/])"), HIDDEN),
)


def redact(text: str) -> str:
    """`text` with passwords in addresses, tokens and values of secret-sounding names replaced by `***`."""
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    return text
