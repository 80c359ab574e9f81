"""An RPC server of llama.cpp on loopback, as a child process: another machine's device, for tests.

python rpc_server.py HOST:PORT      runs until it is killed
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CPU = 0  # enum ggml_backend_dev_type


class RpcServer:
    """A running server."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, self.endpoint], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait_until_it_listens()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _wait_until_it_listens(self) -> None:
        host, port = self.endpoint.split(":")
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, "the RPC server ended"
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "the RPC server does not listen"
                time.sleep(0.02)
            else:
                return


@contextmanager
def running_rpc_server() -> Iterator[RpcServer]:
    server = RpcServer()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def answering(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that answers every connection in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def serve() -> None:
            while True:
                with server.accept()[0] as client:
                    if over.is_set():
                        return
                    behave(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        yield address
        over.set()
        socket.create_connection(server.getsockname()).close()
        thread.join()


def main(endpoint: str) -> None:
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    suffix = "dylib" if sys.platform == "darwin" else "so"
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    ggml = ctypes.CDLL(str(folder / f"libggml.{suffix}"))
    ggml.ggml_backend_dev_by_type.restype = pointer
    devices = (pointer * 1)(ggml.ggml_backend_dev_by_type(_CPU))
    start = ctypes.CDLL(str(folder / f"libggml-rpc.{suffix}")).ggml_backend_rpc_start_server
    start.restype, start.argtypes = None, [ctypes.c_char_p, ctypes.c_char_p, size, size, ctypes.POINTER(pointer)]
    start(endpoint.encode(), None, 1, 1, devices)


if __name__ == "__main__":
    main(sys.argv[1])
