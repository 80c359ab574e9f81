"""A process that answers one prompt with a prefix cache: MODEL FOLDER N_DIFFERENT [hang|full].

Prints how many tokens came from the disk. N_DIFFERENT is the last token of the prompt. With `hang` it stops where the
state has been written but not completed, says so, and waits to be killed. With `full` the disk takes 20 kB a file.
"""

from __future__ import annotations

import resource
import sys
import time
from itertools import count
from pathlib import Path

from qwenctl.core import Finished, GenerationRequest, SamplingParams
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.prefix_store import PrefixStore

DOCUMENT = tuple(10 + n * n % 200 for n in range(600))


def _hang(_store: object, unfinished: Path, _record: object) -> None:
    sys.stdout.write("written\n" if unfinished.stat().st_size else "empty\n")
    sys.stdout.flush()
    time.sleep(600)


def main() -> None:
    """Answer."""
    model, folder, last, *fault = sys.argv[1:]
    if fault == ["hang"]:
        PrefixStore.publish = _hang  # type: ignore[method-assign]
    options = EngineOptions(n_ctx=1024, n_threads=1, prefix_cache=PrefixCacheOptions(Path(folder), 1 << 28))
    ticks = count()
    with Engine.open(Path(model), options, clock=lambda: float(next(ticks))) as engine:
        if fault == ["full"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        prompt = (*DOCUMENT, *range(40, 60), int(last))
        request = GenerationRequest("one", prompt, SamplingParams(temperature=0), 4)
        end = next(event for event in engine.generate(request) if isinstance(event, Finished))
    sys.stdout.write(f"{end.usage.n_from_disk}\n")


if __name__ == "__main__":
    main()
