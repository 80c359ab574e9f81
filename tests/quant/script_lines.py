"""Lines of text that tokenizers disagree on: every script, emoji, marks, controls, digits, code, special tokens.

Generated from Unicode ranges with a fixed seed; only characters that Python's own Unicode tables know, so that an older
table is not what a test measures. Random letters in a script's range form words that no one writes; `human_sentences`
are those that people do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F)),
    "Latin extended": ((0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7CA)),
    "Phonetic": ((0x250, 0x2AF), (0x1D00, 0x1D7F)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFE)),
    "Cyrillic": ((0x400, 0x52F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x531, 0x58A),),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF)),
    "Hebrew": ((0x591, 0x5F4), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFBB1), (0xFE70, 0xFEFC)),
    "Syriac": ((0x700, 0x74F),),
    "Thaana": ((0x780, 0x7B1),),
    "N'Ko": ((0x7C0, 0x7FF),),
    "Samaritan": ((0x800, 0x83E),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FE),),
    "Gurmukhi": ((0xA01, 0xA76),),
    "Gujarati": ((0xA81, 0xAFF),),
    "Oriya": ((0xB01, 0xB77),),
    "Tamil": ((0xB82, 0xBFA),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCF2),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD81, 0xDF4),),
    "Thai": ((0xE01, 0xE5B),),
    "Lao": ((0xE81, 0xEDF),),
    "Tibetan": ((0xF00, 0xFDA),),
    "Myanmar": ((0x1000, 0x109F), (0xAA60, 0xAA7F)),
    "Hangul": ((0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x3131, 0x318E)),
    "Ethiopic": ((0x1200, 0x139F),),
    "Cherokee": ((0x13A0, 0x13FD), (0xAB70, 0xABBF)),
    "Canadian Aboriginal": ((0x1400, 0x167F),),
    "Ogham and Runic": ((0x1680, 0x169C), (0x16A0, 0x16F8)),
    "Khmer": ((0x1780, 0x17F9),),
    "Mongolian": ((0x1800, 0x18AA),),
    "Balinese and Javanese": ((0x1B00, 0x1B7C), (0xA980, 0xA9DF)),
    "Tifinagh": ((0x2D30, 0x2D7F),),
    "Hiragana": ((0x3041, 0x309F),),
    "Katakana": ((0x30A0, 0x30FF), (0xFF66, 0xFF9D)),
    "Bopomofo": ((0x3105, 0x312F),),
    "Han": ((0x4E00, 0x9FFC), (0x3400, 0x4DBF)),
    "Han beyond the BMP": ((0x20000, 0x2A6D6), (0xF900, 0xFAD9)),
    "Yi": ((0xA000, 0xA4C6),),
    "Vai": ((0xA500, 0xA62B),),
    "Gothic to Deseret": ((0x10330, 0x1034A), (0x10400, 0x1044F)),
    "Adlam": ((0x1E900, 0x1E95F),),
    "Mathematical letters": ((0x1D400, 0x1D7FF),),
    "Cuneiform and hieroglyphs": ((0x12000, 0x12399), (0x13000, 0x1342E)),
}
"""Code points by script; unassigned ones within the ranges are passed over."""

_SEPARATORS = (
    " ",
    " ",
    " ",
    "  ",
    ", ",
    "-",
    "'",
    ". ",
    "\n",
    "\t",
    "’",
    "/",
    " (",
    ") ",
    "\u00a0",
    "\u200b",
    "\u3000",
)
_EMOJI_PARTS = (
    "👩",
    "👨",
    "👧",
    "🧑",
    "💻",
    "🚀",
    "❤️",
    "🏳️",
    "🌈",
    "🤷",
    "♀️",
    "♂️",
    "🏴",
    "☠️",
    "✈️",
    "👍",
    "🫱",
    "🧬",
    "0️⃣",
    "#️⃣",
)
_EMOJI_JOINTS = ("\u200d", "\u200d", "", " ", "🏽", "🏿", "\ufe0f", "\u20e3")
_FLAGS = tuple("".join(chr(0x1F1E6 + ord(c) - 65) for c in code) for code in ("DE", "JP", "UA", "BR", "ZA", "IN", "KR"))
_CODE = (
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # ok\n",
    "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i] * 0x1F;\n\t}\r\n",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'it''s';",
    '<a href="https://example.org/?q=1&r=2#x">l\'été</a>',
    "let s = \"\\u00e9\\n\"; // don't, I'LL, we'Ve, they'RE, 'S, 'tis",
    '{"a": [1, 2.5e-10, null, true], "b": "\\\\"}',
    "$ grep -rn '^[^#]*\\bfoo\\b' src/ | sed 's/a\\/b/c/g' >> out.txt 2>&1",
    "\\begin{align} \\int_0^1 x^2 \\,dx &= \\frac{1}{3} \\end{align}",
)


def human_sentences() -> list[tuple[str, str, str]]:
    """Return (language, script, text): article 1 of the Universal Declaration of Human Rights in many languages."""
    path = Path(__file__).resolve().parent.parent / "data" / "human_rights.tsv"
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [(language, script, text) for language, script, text in rows]


def generated_lines(per_kind: int, added_tokens: Sequence[str], seed: int = 0) -> list[str]:
    """Return `per_kind` lines of each script and of each other kind.

    Args:
        per_kind: lines of each.
        added_tokens: texts of special tokens, to be strewn into text whole, cut and doubled.
        seed: of the random choices.
    """
    random = Random(seed)
    kinds = [*(_script_lines(random, ranges) for ranges in SCRIPTS.values())]
    kinds += [_emoji(random), _marks(random), _controls(random), _digits(random), _spaces(random), _code(random)]
    kinds += [_mixed(random), _with_tokens(random, added_tokens)]
    return [next(kind) for kind in kinds for _ in range(per_kind)]


def _letters(ranges: Sequence[tuple[int, int]]) -> list[str]:
    characters = (chr(code) for low, high in ranges for code in range(low, high + 1))
    return [character for character in characters if unicodedata.category(character) not in ("Cn", "Cs", "Co")]


def _words(random: Random, letters: Sequence[str], n_words: int) -> str:
    parts = []
    for _ in range(n_words):
        parts += [*random.choices(letters, k=random.randint(1, 9)), random.choice(_SEPARATORS)]
    return "".join(parts)


def _script_lines(random: Random, ranges: Sequence[tuple[int, int]]) -> Iterator[str]:
    letters = _letters(ranges)
    while True:
        yield _words(random, letters, random.randint(1, 8))


def _emoji(random: Random) -> Iterator[str]:
    while True:
        pieces = [random.choice(_EMOJI_PARTS) + random.choice(_EMOJI_JOINTS) for _ in range(random.randint(1, 8))]
        yield "".join(pieces) + random.choice(_FLAGS) + random.choice(("", " ok", "!\n", "é"))


def _marks(random: Random) -> Iterator[str]:
    marks = _letters(((0x300, 0x36F), (0x1AB0, 0x1ABE), (0x20D0, 0x20F0), (0xFE20, 0xFE2F)))
    bases = _letters(((0x41, 0x5A), (0x61, 0x7A), (0x391, 0x3C9), (0x410, 0x44F), (0x30, 0x39), (0x20, 0x2F)))
    while True:
        clusters = (random.choice(bases) + "".join(random.choices(marks, k=random.randint(0, 4))) for _ in range(12))
        yield "".join(clusters)


def _controls(random: Random) -> Iterator[str]:
    controls = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200C, 0x200D, 0x200E, 0x2028, 0xFEFF)]
    while True:
        yield "".join(random.choice(controls) * random.randint(1, 3) + random.choice("ab 1.") for _ in range(6))


def _digits(random: Random) -> Iterator[str]:
    zeros = (0x30, 0x660, 0x966, 0xE50, 0xFF10, 0x1D7CE)
    while True:
        zero = random.choice(zeros)
        runs = ("".join(chr(zero + random.randrange(10)) for _ in range(random.randint(1, 40))) for _ in range(3))
        yield random.choice((" ", ".", ",", "x", "½", "²")).join(runs)


def _spaces(random: Random) -> Iterator[str]:
    spaces = (" ", " ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u2003", "\u3000", "\u0085", "\u000b", "\f")
    while True:
        runs = (
            random.choice(spaces) * random.randint(1, 5) + random.choice(("", "a", ".", "1", "é")) for _ in range(8)
        )
        yield "".join(runs)


def _code(random: Random) -> Iterator[str]:
    while True:
        lines = "".join(random.sample(_CODE, 2)).split(" ")
        yield (" " * random.choice((1, 2, 4))).join(lines)


def _mixed(random: Random) -> Iterator[str]:
    alphabets = [_letters(ranges) for ranges in SCRIPTS.values()]
    while True:
        yield "".join(_words(random, letters, 1) for letters in random.sample(alphabets, 4))


def _with_tokens(random: Random, added_tokens: Sequence[str]) -> Iterator[str]:
    while True:
        parts = []
        for _ in range(5):
            token = random.choice(added_tokens)
            cut = random.choice(
                (token, token, token * 2, token[:-1], token[1:], token.upper(), f" {token} ", f"<{token}>")
            )
            parts += [random.choice(("hello ", "é", "\n", "  ", "可以", "1", "🙂", "")), cut]
        yield "".join(parts)
