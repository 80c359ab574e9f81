"""Copies to a device on a queue of its own, beside its computing: nobody waits for them but the device itself.

    copies of a layer's experts ─► queue of copies ─► event of the layer
                                                        └► the computing queue waits there before that layer's next run

From pinned memory only: from any other, queueing a copy takes as long as the copy. Knows nothing of experts.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenctl.moe.devices import Device, DeviceCalls

Copy = tuple[int, int, int, int]  # address of the tensor, of the bytes, offset in the tensor, bytes


class QueuedCopies:
    """One device's queue. Close it before what it copies from or to is freed.

    Args:
        calls: the library.
        device: to which.
    """

    def __init__(self, calls: DeviceCalls, device: Device) -> None:
        self._calls, self._device = calls, device
        self._events: dict[int, int] = {}
        self._pending: set[int] = set()
        self._backend: int = 0
        probe = calls.ggml_backend_event_new(device.handle)
        if probe:  # without events there is no order between two queues
            self._events[-1] = probe
            self._backend = calls.ggml_backend_dev_init(device.handle, None) or 0

    @property
    def is_possible(self) -> bool:
        """Whether the device has such queues."""
        return bool(self._backend)

    def queue(self, key: int, copies: Iterable[Copy]) -> None:
        """Queue copies, and let `order` with this key wait for them.

        Args:
            key: what is copied to, not negative.
            copies: from memory that must not change until that wait is over.
        """
        if key not in self._events:
            self._events[key] = self._calls.ggml_backend_event_new(self._device.handle)
        for tensor, address, offset, n_bytes in copies:
            self._calls.ggml_backend_tensor_set_async(self._backend, tensor, address, offset, n_bytes)
        self._calls.ggml_backend_event_record(self._events[key], self._backend)
        self._pending.add(key)

    def order(self, key: int, backend: int) -> None:
        """Have what is queued on another queue from now on wait for the copies with this key."""
        if key in self._pending:
            self._pending.discard(key)
            self._calls.ggml_backend_event_wait(backend, self._events[key])

    def close(self) -> None:
        """Wait, and free the queue."""
        backend, self._backend = self._backend, 0
        if backend:
            self._calls.ggml_backend_synchronize(backend)
            self._calls.ggml_backend_free(backend)
        while self._events:
            self._calls.ggml_backend_event_free(self._events.popitem()[1])
