"""Why an engine's process ended, and what to do: from its exit status, the last lines it printed, and who is gone.

ggml aborts the process that talks to an RPC server as soon as that one does not answer as it should (ggml-rpc.cpp of
llama.cpp 0c1e57098, RPC_STATUS_ASSERT). Its sentence names no server, so they are asked who still listens.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from qwenctl.services.engine_child import Death
from qwenctl.services.rpc_servers import is_gone

_LOST = re.compile(r"Remote RPC server crashed|Failed to connect to|RPC handshake failed|(?:send|recv) failed")
_OTHER_VERSION = re.compile(r"RPC server version mismatch: ([\d.]+)")
_SOURCE = re.compile(
    r"^(?:.*/)?([\w.+-]+:\d+: .*)$"
)  # an assertion, without the folders of the machine it was built on
_MOST_CHARS = 300


def reason_of(death: Death, rpc: Sequence[str]) -> str:
    """Return why, in one line.

    Args:
        death: of the process.
        rpc: endpoints of the servers whose devices it used.
    """
    if death.nonsense:
        return f"the engine's process was ended: it sent {death.nonsense}"
    if version := _other_version(death):
        return f"an RPC server ({', '.join(rpc)}) speaks another version of llama.cpp's protocol: {version}"
    if _lost_a_server(death, rpc):
        return f"the connection to {_lost_servers(rpc)} was lost (ggml stopped the engine's process)"
    if death.status == -signal.SIGKILL:
        return "the engine's process was killed (SIGKILL)"
    said = ": " + _SOURCE.sub(r"\1", death.log[-1])[:_MOST_CHARS] if death.log else ""
    if death.status < 0:
        return f"llama.cpp crashed in the engine's process ({_signal_name(-death.status)}){said}"
    return f"the engine's process ended (exit status {death.status}){said}"


def hint_of(death: Death, rpc: Sequence[str]) -> str | None:
    """Return the next step."""
    if _other_version(death):
        return "run the rpc-server of the llama.cpp that qwenctl was built with"
    if _lost_a_server(death, rpc):
        return "start the RPC server again and repeat the command; batch goes on where it was"
    if death.status == -signal.SIGKILL:
        return "the system does so when memory runs out: try a smaller --ctx, or a smaller model"
    return None


def _other_version(death: Death) -> str | None:
    return next((match[1] for line in death.log if (match := _OTHER_VERSION.search(line))), None)


def _lost_a_server(death: Death, rpc: Sequence[str]) -> bool:
    return bool(rpc) and death.status == -signal.SIGABRT and any(_LOST.search(line) for line in death.log)


def _lost_servers(rpc: Sequence[str]) -> str:
    if len(rpc) == 1:
        return f"RPC device {rpc[0]}"
    if gone := [endpoint for endpoint in rpc if is_gone(endpoint)]:
        return f"RPC device {' and '.join(gone)}"
    return f"one of the RPC devices {', '.join(rpc)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
