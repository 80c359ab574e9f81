"""Run a batch, and write down every line that is begun, for tests that kill it. One argument, JSON:

input, output, begun: paths     order     engine: "scripted", "none" or a GGUF file     server: URL or null
seconds_per_step: of the scripted engine
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PARALLEL = 4


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from qwenctl.services.batch import BatchOptions, run_batch
    from qwenctl.services.generation import ChatModel, ChatOptions

    wanted = json.loads(sys.argv[1])
    chat = ChatOptions(thinking=False, sampling={"temperature": 0.0}, max_tokens=16)
    options = BatchOptions(chat=chat, parallel=PARALLEL, order=wanted["order"], n_retries=5)
    engine = opened(wanted)
    model = ChatModel(engine) if engine else None
    run_batch(model, Path(wanted["input"]), Path(wanted["output"]), options, servers=servers(wanted["server"]))
    if model:
        model.close()
        model.engine.close()


def opened(wanted: dict[str, Any]) -> Any:
    """Return an engine that writes down what is submitted to it."""
    if wanted["engine"] == "none":
        return None
    if wanted["engine"] == "scripted":
        from tests.scripted_engine import ScriptedEngine

        def echo(prompt: str) -> list[str]:
            return [f"{word} " for word in prompt.split()]

        engine: Any = ScriptedEngine(answer=echo, n_parallel=PARALLEL, seconds_per_step=wanted["seconds_per_step"])
    else:
        from qwenctl.services.engine import Engine
        from qwenctl.services.engine_options import EngineOptions

        engine = Engine.open(
            Path(wanted["engine"]), EngineOptions(n_ctx=256, n_parallel=PARALLEL, n_threads=1, repack=False)
        )
    submit, log = engine.submit, os.open(wanted["begun"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def submit_and_tell(request: Any) -> None:
        os.write(log, f"{request.request_id.split('-')[1]}\n".encode())  # line-NUMBER-ATTEMPT-REPLY
        submit(request)

    engine.submit = submit_and_tell
    return engine


def servers(url: str | None) -> list[Any]:
    """Return the server as a batch wants it."""
    if url is None:
        return []
    from qwenctl.services.batch_servers import find_servers
    from qwenctl.services.server_choice import ServerAddress, ServerChoice
    from qwenctl.settings import NetworkSettings

    return list(find_servers(ServerChoice((ServerAddress.parse(url),)), NetworkSettings(), PARALLEL, print))


if __name__ == "__main__":
    main()
