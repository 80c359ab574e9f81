"""The devices that a model could use, with their memory: this machine's, and those of the RPC servers that are named.

In llama.cpp's order, under ggml's names. Asking a server costs two short connections, and nothing of ggml's is
connected to it, so that nothing can abort here.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.services.engine_devices import engine_devices
from qwenctl.services.rpc_servers import check_endpoints, remote_devices


def machine_devices(rpc: Sequence[str] = ()) -> tuple[DeviceMemory, ...]:
    """Return what `run` would use by itself, remote devices first.

    Args:
        rpc: "host:port" of servers.

    Raises:
        InvalidRequest: an endpoint is none.
        ModelLoadFailed: a server does not answer, is busy or of another version.
    """
    check_endpoints(rpc)
    return (*remote_devices(rpc), *engine_devices(None).memory)
