"""Run a batch on the scripted engine, slowly, for tests that kill it. Arguments: input, output, seconds per step."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from qwenctl.services.batch import BatchOptions, run_batch
    from qwenctl.services.generation import ChatModel
    from tests.scripted_engine import ScriptedEngine

    def echo(prompt: str) -> list[str]:
        return [f"{word} " for word in prompt.split()]

    engine = ScriptedEngine(answer=echo, n_parallel=4, seconds_per_step=float(sys.argv[3]))
    run_batch(ChatModel(engine), Path(sys.argv[1]), Path(sys.argv[2]), BatchOptions(parallel=4))


if __name__ == "__main__":
    main()
