"""The child process of a worker: ggml's RPC server on a port of loopback's, for one client at a time.

    argument          {"port": 41234, "devices": ["CUDA0"] or null, "memory_bytes": n or null, "n_threads": 4}
    standard output   one line: {"devices": [{"name": …, "description": …, "free": …, "total": …}], "bounded": true}
                      or {"error": …}; ggml's own words go to standard error
    standard input    its end is the end of this process

It is a process of its own because ggml aborts where a client sends what cannot be computed. Whoever is on this machine
can reach the port, as they can reach llama.cpp's rpc-server.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from quant.libggml import load_libggml
from qwenctl.moe.abi_check import UnknownBuild, check_abi
from qwenctl.moe.devices import DeviceCalls, find_devices
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.services.worker_memory import ReportedMemory


def main() -> NoReturn:
    """Serve until standard input ends; the exit code is 1 if the port could not be had."""
    job = json.loads(sys.argv[1])
    answers = os.dup(1)
    os.dup2(2, 1)
    os.environ["GGML_NO_BACKTRACE"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = load_libggml().path
    calls = DeviceCalls(Ggml(path.parent))
    handles = _devices(calls, job["devices"])
    start = _start_function(calls)
    if isinstance(handles, str) or start is None:
        error = handles if isinstance(handles, str) else "this build of llama.cpp has no RPC"
        os.write(answers, json.dumps({"error": error}).encode() + b"\n")
        os._exit(1)
    try:
        check_abi(ctypes.CDLL(str(path)))
        reported = ReportedMemory(calls, handles, job["memory_bytes"])
    except UnknownBuild:
        reported = None
    told = {"devices": [_described(calls, handle) for handle in handles], "bounded": reported is not None}
    os.write(answers, json.dumps(told).encode() + b"\n")
    array = (ctypes.c_void_p * len(handles))(*handles)
    start(f"127.0.0.1:{job['port']}".encode(), None, job["n_threads"], len(handles), array)
    os._exit(1)


def _end_with_parent() -> NoReturn:
    while os.read(0, 1):
        pass
    os._exit(0)


def _devices(calls: DeviceCalls, names: Sequence[str] | None) -> list[int] | str:
    """Return the devices to serve, all GPUs or else the CPU without names; or what is wrong with a name."""
    if names is None:
        return [device.handle for device in find_devices(calls)] or [calls.ggml.cpu_device]
    handles = [calls.ggml_backend_dev_get(index) for index in range(calls.ggml_backend_dev_count())]
    labels = [calls.ggml_backend_dev_name(handle).decode("utf-8", "replace") for handle in handles]
    by_name = {label.lower(): handle for label, handle in zip(labels, handles, strict=True)}
    missing = [name for name in names if name.lower() not in by_name]
    if missing:
        there = ", ".join(labels)
        return f"no device {missing[0]}; there are: {there}"
    return [by_name[name.lower()] for name in names]


def _described(calls: DeviceCalls, handle: int) -> dict[str, Any]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    calls.ggml_backend_dev_memory(handle, ctypes.addressof(free), ctypes.addressof(total))
    name, what = calls.ggml_backend_dev_name(handle), calls.ggml_backend_dev_description(handle)
    words = {"name": name.decode("utf-8", "replace"), "description": what.decode("utf-8", "replace")}
    return {**words, "free": free.value, "total": total.value}


def _start_function(calls: DeviceCalls) -> Any:
    """Return ggml_backend_rpc_start_server, None if this build has none."""
    registry = calls.ggml_backend_reg_by_name(b"RPC")
    name = b"ggml_backend_rpc_start_server"
    address = calls.ggml_backend_reg_get_proc_address(registry, name) if registry else None
    if not address:
        return None
    size, text = ctypes.c_size_t, ctypes.c_char_p
    return ctypes.CFUNCTYPE(None, text, text, size, size, ctypes.c_void_p)(address)


if __name__ == "__main__":
    main()
