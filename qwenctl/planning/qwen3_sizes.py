"""Qwen3's models as a first look at a machine needs them: sizes in the types that are worth running.

From the published configurations, by the same code that plans and converts (tests/planning holds the one against the
other). A plan proper reads headers, and takes a second; this is for the screen that is to be there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GLANCE_CTX = 8192  # tokens of context that `kv_bytes` is for


@dataclass(frozen=True, slots=True)
class QuantSize:
    """A model's bytes in one type."""

    file_bytes: int
    token_bytes: int  # read for a token of an answer: dense weights, and the experts in use


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model by its short name (services/hub/short_names.py).

    Attributes:
        name: as it is pulled.
        n_layers: of its blocks.
        kv_bytes: of GLANCE_CTX tokens, in f16.
        has_experts: whether it may be larger than memory.
        quants: by type, best first.
    """

    name: str
    n_layers: int
    kv_bytes: int
    has_experts: bool
    quants: Mapping[str, QuantSize]


def _model(name: str, n_layers: int, kv_bytes: int, *sizes: tuple[int, int], has_experts: bool = False) -> KnownModel:
    quants = {quant: QuantSize(*size) for quant, size in zip(_QUANTS, sizes, strict=True)}
    return KnownModel(name, n_layers, kv_bytes, has_experts, quants)


_QUANTS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")

QWEN3: tuple[KnownModel, ...] = (
    _model(
        "qwen3:0.6b", 28, 939524096,
        (639572992, 633495552), (495233024, 489155584), (444540928, 438463488), (396830720, 390753280),
    ),
    _model(
        "qwen3:1.7b", 28, 939524096,
        (1834552320, 1828474880), (1417880576, 1411803136), (1258005504, 1251928064), (1107534848, 1101457408),
    ),
    _model(
        "qwen3:4b", 36, 1207959552,
        (4280525824, 4274448384), (3306381824, 3300304384), (2889634304, 2883556864), (2497401344, 2491323904),
    ),
    _model(
        "qwen3:8b", 36, 1207959552,
        (8709639168, 8042336256), (6726020096, 6209437696), (5851233280, 5417304064), (5027904512, 4671766528),
    ),
    _model(
        "qwen3:14b", 40, 1342177280,
        (15698652160, 14866042880), (12122055680, 11477847040), (10514688000, 9973795840), (9001871360, 8558218240),
    ),
    _model(
        "qwen3:30b-a3b", 48, 805306368,
        (32484039680, 3269566464), (25092639744, 2535962624), (21725688832, 2218440704), (18556793856, 1919596544),
        has_experts=True,
    ),
    _model(
        "qwen3:32b", 64, 2147483648,
        (34817821696, 33985212416), (26883408896, 26239200256), (23214934016, 22674041856), (19762251776, 19318598656),
    ),
    _model(
        "qwen3:235b-a22b", 94, 1577058304,
        (249940177920, 23063574528), (193015567360, 17852098560), (166814229504, 15397152768),
        (142154146816, 13086615552), has_experts=True,
    ),
    _model(
        "qwen3-coder:480b-a35b", 62, 2080374784,
        (510351971328, 36881438720), (394079413248, 28530925568), (340493097984, 24602009600),
        (290058918912, 20904206336), has_experts=True,
    ),
)  # fmt: skip
"""The least able first."""
