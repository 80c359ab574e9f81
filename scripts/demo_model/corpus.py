"""Plain text in many languages for the demo model, taken from Debian packages with free licences.

Knows which packages, where the text lies in each and how to clean it; knows nothing of tokens. Nothing is installed:
packages are fetched with `apt-get download` and unpacked with `dpkg -x` below the work folder (run `apt-get update`
first, on Debian 12; another release gives other versions of the same books).

A paragraph is kept once over the whole corpus: a translated book repeats what nobody has translated yet in English, and
without that the "Korean" text would be English.
"""

import gzip
import html
import json
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

HELD_OUT_EVERY = 50
"""One chunk in so many is never trained on."""
CHUNK_CHARS = 3000
MIN_PARAGRAPH_CHARS = 40


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one package (`pattern` below its unpacked folder) that hold text of one language group."""

    package: str
    language: str
    pattern: str
    read: str
    licence: str


def _debian_books() -> Iterator[Source]:
    """English first: paragraphs left untranslated elsewhere are then counted as English."""
    gpl = "GPL-2+"
    faq_languages = {
        "en": "",
        "de": "-de",
        "fr": "-fr",
        "it": "-it",
        "pt": "-pt",
        "ru": "-ru",
        "ja": "-ja",
        "zh": "-zh-cn",
        "nl": "-nl",
        "ko": "-ko",
    }
    reference_languages = {
        "en": "en",
        "de": "de",
        "fr": "fr",
        "es": "es",
        "it": "it",
        "pt": "pt",
        "ja": "ja",
        "zh": "zh-cn",
        "id": "id",
    }
    developer_languages = {"en": "", "de": "-de", "fr": "-fr", "it": "-it", "ja": "-ja", "ru": "-ru"}
    guide_languages = {"ru": "ru", "zh": "zh-cn", "es": "es", "vi": "vi"}
    handbook_languages = (
        *("en-US", "de-DE", "fr-FR", "es-ES", "it-IT", "pt-BR", "ru-RU", "ja-JP", "zh-CN"),
        *("ko-KR", "nl-NL", "pl-PL", "vi-VN", "id-ID", "ar-MA", "tr-TR", "el-GR"),
    )
    install_languages = ("en", "de", "fr", "es", "it", "pt", "ru", "ja", "zh_CN", "ko", "nl", "vi", "el", "cs", "sv")
    for tag in handbook_languages:
        folder = f"usr/share/doc/debian-handbook/html/{tag}"
        yield Source("debian-handbook", tag[:2], f"{folder}/**/*.html", "html", "GPL-2+ or CC-BY-SA-3.0+")
    for language, code in reference_languages.items():
        yield Source(f"debian-reference-{code}", language, "usr/share/debian-reference/*.html", "html", gpl)
    for code in install_languages:
        folder = f"usr/share/doc/installation-guide-amd64/{code}"
        yield Source("installation-guide-amd64", code[:2], f"{folder}/*.html", "html", "GPL-2")
    for language, suffix in developer_languages.items():
        yield Source(f"developers-reference{suffix}", language, "usr/share/**/*.html", "html", gpl)
    for language, suffix in faq_languages.items():
        yield Source(f"debian-faq{suffix}", language, "usr/share/doc/debian/FAQ/**/*.html", "html", gpl)
    for language, code in guide_languages.items():
        yield Source(f"maint-guide-{code}", language, "usr/share/doc/**/*.html", "html", gpl)


def sources() -> list[Source]:
    """Every source, English first."""
    literature = [
        Source("dict-devil", "en", "usr/share/dictd/devil.dict.dz", "dictd", "public domain (A. Bierce, 1911)"),
        Source("wordnet-base", "en", "usr/share/wordnet/data.*", "wordnet", "WordNet 3.0 licence"),
        Source(
            "sword-text-web",
            "en",
            "usr/share/sword/modules/texts/ztext/*/*.bzs",
            "sword",
            "public domain (World English Bible)",
        ),
        Source(
            "sword-text-sparv",
            "es",
            "usr/share/sword/modules/texts/ztext/*/*.bzs",
            "sword",
            "public domain (Reina-Valera, 1909)",
        ),
    ]
    return [*literature, *_debian_books()]


def fetch(packages: list[str], work: Path) -> dict[str, str]:
    """Download and unpack `packages` below `work`; return their versions."""
    folder = work / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    (work / "unpacked").mkdir(exist_ok=True)
    missing = [package for package in packages if not list(folder.glob(f"{package}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder, check=True, capture_output=True)
    versions = {}
    for package in packages:
        found = sorted(folder.glob(f"{package}_*.deb"))[-1]
        target = work / "unpacked" / package
        if not target.exists():
            subprocess.run(["dpkg", "-x", str(found), str(target)], check=True)
        versions[package] = found.name.split("_")[1].replace("%3a", ":")
    return versions


class _Paragraphs(HTMLParser):
    """The text blocks of a page; code blocks keep their lines, navigation and scripts are dropped."""

    BLOCKS = frozenset(
        (
            "p",
            "li",
            "dt",
            "dd",
            "h1",
            "h2",
            "h3",
            "h4",
            "td",
            "th",
            "pre",
            "div",
            "tr",
            "table",
            "ul",
            "ol",
            "body",
            "br",
        )
    )
    DROPPED = frozenset(("script", "style", "head", "nav", "footer"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._dropped = 0
        self._pre = 0

    def _flush(self) -> None:
        text = "".join(self._text)
        if not self._pre:
            text = re.sub(r"\s+", " ", text)
        text = text.strip("\n") if self._pre else text.strip()
        if text.strip():
            self.blocks.append(text)
        self._text = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag in self.BLOCKS:
            self._flush()
        self._dropped += tag in self.DROPPED
        self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in self.BLOCKS:
            self._flush()
        self._dropped = max(0, self._dropped - (tag in self.DROPPED))
        self._pre = max(0, self._pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._dropped:
            self._text.append(data)


def _read_html(path: Path) -> Iterator[str]:
    parser = _Paragraphs()
    parser.feed(path.read_text("utf-8", "replace"))
    yield from parser.blocks


def _read_dictd(path: Path) -> Iterator[str]:
    """Entries begin at the left margin; their bodies are indented and hard-wrapped."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n(?=\S)", text):
        yield re.sub(r"\s+", " ", entry).strip()


def _read_wordnet(path: Path) -> Iterator[str]:
    """`offset file type n word id word id … | gloss; "example"`: written as `word, word: gloss`, ten to a block."""
    lines = []
    for line in path.read_text("utf-8", "replace").splitlines():
        if line.startswith("  ") or " | " not in line:
            continue
        fields, gloss = line.split(" | ", 1)
        parts = fields.split()
        words = [parts[4 + 2 * i].replace("_", " ") for i in range(int(parts[3], 16))]
        lines.append(f"{', '.join(words)}: {gloss.strip()}")
    lines = lines[::7]  # 117 000 glosses would be half of all English
    for start in range(0, len(lines), 10):
        yield "\n".join(lines[start : start + 10])


def _read_sword(path: Path) -> Iterator[str]:
    """zText: `.bzs` lists blocks as (offset, compressed size, size) of little-endian u32, `.bzz` holds zlib streams."""
    index = path.read_bytes()
    data = path.with_suffix(".bzz").read_bytes()
    for offset, size, _ in struct.iter_unpack("<III", index[: len(index) // 12 * 12]):
        text = zlib.decompress(data[offset : offset + size]).decode("utf-8", "replace")
        text = re.sub(r"<note.*?</note>", "", text, flags=re.S)
        text = re.sub(r"</?(verse|chapter|div|p|l|lg|lb)\b[^>]*>", " ", text)
        text = html.unescape(re.sub(r"<[^>]*>", "", text)).replace("\x00", " ")
        text = re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", text)).strip()
        sentences = re.split(r"(?<=[.!?”]) ", text)
        for start in range(0, len(sentences), 18):  # a third of it: both bibles are long
            yield " ".join(sentences[start : start + 6])


_NOT_LATIN = frozenset(("ru", "ja", "zh", "ko", "ar", "el"))
_ENGLISH = re.compile(r"\b(the|and|of|to|is|with|this)\b")


def _is_in(language: str, block: str) -> bool:
    """Whether a block is written in its book's language, not in English left untranslated and not code."""
    if language == "en":
        return True
    if language in _NOT_LATIN:
        return sum(ord(c) > 127 for c in block) >= len(block) / 4
    return len(_ENGLISH.findall(block)) * 25 <= len(block.split())


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "html": _read_html,
    "dictd": _read_dictd,
    "wordnet": _read_wordnet,
    "sword": _read_sword,
}


def _chunks(blocks: list[str]) -> Iterator[str]:
    """Neighbouring blocks joined to pieces of about CHUNK_CHARS characters."""
    piece: list[str] = []
    n_chars = 0
    for block in blocks:
        piece.append(block)
        n_chars += len(block)
        if n_chars >= CHUNK_CHARS:
            yield "\n\n".join(piece)
            piece, n_chars = [], 0
    if piece:
        yield "\n\n".join(piece)


def build(work: Path) -> dict[str, dict[str, list[str]]]:
    """`{"train" | "held_out": {language: [document, …]}}`; versions and licences go to `work/sources.json`."""
    every = sources()
    versions = fetch(sorted({source.package for source in every}), work)
    corpus: dict[str, dict[str, list[str]]] = {"train": {}, "held_out": {}}
    seen: set[int] = set()
    n_chunks = 0
    for source in every:
        for path in sorted((work / "unpacked" / source.package).glob(source.pattern)):
            blocks = []
            for block in READERS[source.read](path):
                key = hash(block)
                shortest = MIN_PARAGRAPH_CHARS // (3 if source.language in ("zh", "ja", "ko") else 1)
                if key in seen or len(block) < shortest or not _is_in(source.language, block):
                    continue
                seen.add(key)
                blocks.append(block)
            train: list[str] = []
            for chunk in _chunks(blocks):
                n_chunks += 1
                if n_chunks % HELD_OUT_EVERY == 0:
                    corpus["held_out"].setdefault(source.language, []).append(chunk)
                else:
                    train.append(chunk)
            if train:
                corpus["train"].setdefault(source.language, []).append("\n\n".join(train))
    licences = {source.package: source.licence for source in every}
    rows = [{"package": name, "version": versions[name], "licence": licences[name]} for name in sorted(versions)]
    (work / "sources.json").write_text(json.dumps(rows, indent=1))
    return corpus
