"""Token rows for training: plain text by language and freshly written dialogues, mixed in given shares.

Text is tokenized once and kept as uint16 files; dialogues are made and tokenized as they are needed, always new ones.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from demo_model import dialogues
from demo_model.tokenizer import token_id

TEXT_SHARES = {
    "en": 0.36,
    "de": 0.10,
    "fr": 0.09,
    "es": 0.09,
    "it": 0.08,
    "pt": 0.07,
    "ru": 0.07,
    "ja": 0.05,
    "zh": 0.05,
}
"""Of the plain text; what is left goes to all the other languages together."""


class Batch(NamedTuple):
    """`ids` (rows, length + 1) int64 and what predicting ids[:, 1:] counts, `weights` (rows, length) float32."""

    ids: np.ndarray
    weights: np.ndarray


def encode_corpus(tokenizer: Tokenizer, documents: dict[str, list[str]], folder: Path) -> None:
    """Write one `<language>.u16` a language, documents closed by `<|endoftext|>`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = token_id(tokenizer, "<|endoftext|>")
    for language, texts in documents.items():
        ids: list[int] = []
        for encoding in tokenizer.encode_batch_fast(texts):
            ids += encoding.ids
            ids.append(end)
        np.array(ids, dtype=np.uint16).tofile(folder / f"{language}.u16")


class TextRows:
    """Rows cut at random from the languages' token streams."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._streams = {path.stem: np.fromfile(path, dtype=np.uint16) for path in sorted(folder.glob("*.u16"))}
        others = [language for language in self._streams if language not in TEXT_SHARES]
        rest = 1 - sum(TEXT_SHARES.values())
        n_others = sum(len(self._streams[language]) for language in others)
        self._languages = list(self._streams)
        self._shares = [TEXT_SHARES.get(name, rest * len(self._streams[name]) / n_others) for name in self._languages]
        self._rng = random.Random(seed)

    def take(self, n_rows: int, length: int) -> Batch:
        """`n_rows` rows that predict `length` tokens each."""
        rows = []
        for language in self._rng.choices(self._languages, self._shares, k=n_rows):
            stream = self._streams[language]
            start = self._rng.randrange(max(1, len(stream) - length))
            rows.append(stream[start : start + length + 1])
        return Batch(np.stack(rows).astype(np.int64), np.ones((n_rows, length), dtype=np.float32))


class DialogueRows:
    """Rows that begin with a dialogue and are filled with whole ones; the last is cut where the row ends."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)
        self._ready = self._stream()

    def _stream(self) -> Iterator[tuple[list[int], list[float]]]:
        while True:
            talks = [dialogues.make(self._rng) for _ in range(256)]
            pieces = self._tokenizer.encode_batch_fast([text for talk in talks for text, _ in talk])
            at = 0
            for talk in talks:
                ids: list[int] = []
                weights: list[float] = []
                for (_, weight), piece in zip(talk, pieces[at : at + len(talk)], strict=True):
                    ids += piece.ids
                    weights += [weight] * len(piece.ids)
                at += len(talk)
                yield ids, weights

    def take(self, n_rows: int, length: int) -> Batch:
        """`n_rows` rows that predict `length` tokens each."""
        all_ids = np.zeros((n_rows, length + 1), dtype=np.int64)
        all_weights = np.zeros((n_rows, length + 1), dtype=np.float32)
        for row in range(n_rows):
            at = 0
            while at <= length:
                ids, weights = next(self._ready)
                n = min(len(ids), length + 1 - at)
                all_ids[row, at : at + n] = ids[:n]
                all_weights[row, at : at + n] = weights[:n]
                at += n
        return Batch(all_ids, all_weights[:, 1:])
