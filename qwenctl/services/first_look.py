"""What somebody who starts the program for the first time wants to know: this machine, what suits it, what is here.

In a few dozen milliseconds: nothing is measured, no library of llama.cpp's is loaded, nothing is asked of a network.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from qwenctl.moe.calibration import stored_calibrations
from qwenctl.planning.first_advice import Glance, Verdict, advise_all, recommended
from qwenctl.planning.hardware import card_of_memory, described_card
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.default_model import read_default
from qwenctl.services.graphics_cards import Card, built_for_cards, find_cards
from qwenctl.services.measured_cpu import cpu_rates, nearest_calibration
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.split_files import first_files, model_name
from qwenctl.settings import Settings


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What was found.

    Attributes:
        cpu: the processor's name.
        n_threads: that would compute.
        is_measured: whether rates were measured here, not assumed.
        ram_free_bytes: of main memory, for a model.
        ram_bytes: of main memory.
        cards: of this machine, used or not.
        uses_cards: whether this build of llama.cpp can.
        disk_free_bytes: where models are kept; None: unknown.
        verdicts: on each known model, the least able first.
        best: one of them.
        models: that are here, by name.
        default: that answers where none is named; None: the bundled demo.
    """

    cpu: str
    n_threads: int
    is_measured: bool
    ram_free_bytes: int
    ram_bytes: int
    cards: tuple[Card, ...]
    uses_cards: bool
    disk_free_bytes: int | None
    verdicts: tuple[Verdict, ...]
    best: Verdict
    models: tuple[str, ...]
    default: str | None


def first_look(settings: Settings) -> FirstLook:
    """Look at this machine."""
    n_threads = settings.n_threads or default_n_threads()
    stored = [one for one in stored_calibrations(settings.cache_dir) if one.experts]
    nearest = nearest_calibration(stored, n_threads)
    memory, cards, uses_cards = machine_memory(), find_cards(), built_for_cards()
    gpus = tuple(
        (card.free_bytes, (described_card(card.name) or card_of_memory(card.total_bytes)).rates) for card in cards
    )
    glance = Glance(memory.available_bytes, cpu_rates(nearest, n_threads), gpus if uses_cards else ())
    verdicts = advise_all(glance)
    return FirstLook(
        cpu=cpu_name(),
        n_threads=n_threads,
        is_measured=nearest is not None,
        ram_free_bytes=memory.available_bytes,
        ram_bytes=memory.limit_bytes,
        cards=cards,
        uses_cards=uses_cards,
        disk_free_bytes=_disk_free(settings.models_dir),
        verdicts=verdicts,
        best=recommended(verdicts),
        models=tuple(model_name(path) for path in first_files(settings.models_dir)),
        default=settings.model or read_default(settings),
    )


def _disk_free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None
