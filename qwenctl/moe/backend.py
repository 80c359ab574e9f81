"""A ggml device made of Python callbacks: llama.cpp's scheduler sends it the products with expert weights.

    registry ─► device "EXPERTS" (type ACCEL: every llama_context gets a backend of it)
                  ├─ default buffer type: main memory, so activations stay where they are and nothing is copied; with
                  │  experts on a device, memory that the device copies from and to by itself
                  └─ experts' buffer type, named in tensor_buft_overrides: addresses without memory; what is "loaded"
                     into it is ignored. It is not host memory, so each MUL_MAT_ID on it must come to this device, and
                     the device takes the GLU between them too: one call a layer, up → gate → GLU → down.

The buffer type belongs to another device, which is not registered and computes nothing. llama.cpp loads tensors of a
device that copies asynchronously through a few buffers of 1 MiB instead of one as large as the tensor: what it "reads"
of the experts (model_stream.py) then never leaves the processor's cache.

ggml keeps pointers to everything here for ever, so there is one device a process; models come and go (`attach`).
Every callback is fenced: an exception cannot cross C. It is kept, the graph fails, and whoever called llama_decode asks
`take_error` for it. Knows nothing of experts: `GraphRunner` does.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from typing import Any, Protocol

from qwenctl.errors import InvalidRequest
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.ggml_calls import Ggml, address_of

_NAME = b"EXPERTS"
_ALIGNMENT = 128
_RESERVE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)

_OP_AT = abi.TENSOR_OFFSETS["op"]
_SRC_AT = abi.TENSOR_OFFSETS["src"]
_BUFFER_AT = abi.TENSOR_OFFSETS["buffer"]
_MUL_MAT_ID, _GLU, _VIEW = abi.GGML_OP["MUL_MAT_ID"], abi.GGML_OP["GLU"], abi.GGML_OP["VIEW"]
_ALWAYS = frozenset(abi.GGML_OP[name] for name in ("NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"))


class GraphRunner(Protocol):
    """What computes graphs of an opened model."""

    def run(self, graph: int) -> int:
        """Compute the ggml_cgraph at an address; returns a ggml_status."""


class ExpertDevice:
    """The registered device. Make one a process, with `ExpertDevice.shared`."""

    _shared: ExpertDevice | None = None
    _lock = threading.Lock()

    def __init__(self, ggml: Ggml) -> None:
        self._ggml = ggml
        self._alive: list[Any] = []  # what C points to
        self._errors: list[BaseException] = []
        self._runner: GraphRunner | None = None
        self._reserved: dict[int, tuple[int, int]] = {}  # buffer → address, bytes
        self._host_types: dict[int, bool] = {}
        self.compute_function = self._compute_function()
        self._compute_address = _address_of_function(self.compute_function)
        self._guid = ctypes.create_string_buffer(b"qwenctl-experts\0", 16)
        self.cpu_buffer_type = int(ggml.ggml_backend_cpu_buffer_type())
        self._activations_type = self.cpu_buffer_type
        self.buffer_type = self._make_buffer_type()
        self.buffer_type_address = address_of(self.buffer_type)
        self._device = self._make_device()
        self.buffer_type.device = address_of(self._make_store())
        self._registry = self._make_registry()
        self._device.reg = address_of(self._registry)
        ggml.ggml_backend_register(address_of(self._registry))

    @classmethod
    def shared(cls, ggml: Ggml) -> ExpertDevice:
        """Return this process's device, registered on the first call."""
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls(ggml)
            return cls._shared

    @classmethod
    def is_taken(cls) -> bool:
        """Return whether a model is attached to this process's device."""
        return cls._shared is not None and cls._shared._runner is not None

    def check_free(self) -> None:
        """See that no model is attached.

        Raises:
            InvalidRequest: one is.
        """
        if self._runner is not None:
            raise InvalidRequest("a model with offloaded experts is open in this process already", "close it first")

    def attach(
        self, runner: GraphRunner, compute_address: int | None = None, activations_type: int | None = None
    ) -> None:
        """Send graphs to `runner` from now on.

        Args:
            runner: computes them.
            compute_address: of a C function for contexts made from now on, which calls `compute_function` for what it
                leaves; None: that function itself.
            activations_type: a buffer type of main memory, in which llama.cpp is to allocate what goes in and out, for
                contexts made from now on; None: the CPU's own.

        Raises:
            InvalidRequest: another model's runner is attached.
        """
        self.check_free()
        self._runner = runner
        self._compute_address = compute_address or _address_of_function(self.compute_function)
        self._activations_type = activations_type or self.cpu_buffer_type

    def detach(self, runner: GraphRunner) -> None:
        """Send no more graphs to `runner`."""
        if self._runner is runner:
            self._runner = None

    def keep_error(self, error: BaseException) -> None:
        """Keep an exception that happened below C."""
        self._errors.append(error)

    def take_error(self) -> BaseException | None:
        """Return the first exception since the last call, or None."""
        errors, self._errors = self._errors, []
        return errors[0] if errors else None

    # --- callbacks ---------------------------------------------------------------------------------------------------

    def _fenced(self, kind: Any, call: Callable[..., Any], on_error: Any) -> Any:
        """Return a C function that calls `call` and answers `on_error` if it raises."""

        def fenced(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except BaseException as error:
                self._errors.append(error)
                return on_error

        function = kind(fenced)
        self._alive.append(function)
        return function

    def _text(self, text: bytes) -> int:
        buffer = ctypes.create_string_buffer(text)
        self._alive.append(buffer)
        return ctypes.addressof(buffer)

    def _make_buffer_type(self) -> Any:
        name = self._text(_NAME)
        made = abi.ggml_backend_buffer_type()
        fenced, iface = self._fenced, made.iface
        iface.get_name = fenced(abi.ggml_backend_buffer_type_i_get_name, lambda _: name, name)
        iface.alloc_buffer = fenced(abi.ggml_backend_buffer_type_i_alloc_buffer, self._allocate, None)
        iface.get_alignment = fenced(abi.ggml_backend_buffer_type_i_get_alignment, lambda _: _ALIGNMENT, _ALIGNMENT)
        self._buffer_interface = abi.ggml_backend_buffer_i()
        interface = self._buffer_interface
        interface.free_buffer = fenced(abi.ggml_backend_buffer_i_free_buffer, self._free, None)
        interface.get_base = fenced(abi.ggml_backend_buffer_i_get_base, self._base, None)
        interface.memset_tensor = fenced(abi.ggml_backend_buffer_i_memset_tensor, lambda *_: None, None)
        interface.set_tensor = fenced(abi.ggml_backend_buffer_i_set_tensor, lambda *_: None, None)
        interface.get_tensor = fenced(abi.ggml_backend_buffer_i_get_tensor, self._refuse_to_read, None)
        interface.clear = fenced(abi.ggml_backend_buffer_i_clear, lambda *_: None, None)
        return made

    def _make_device(self) -> Any:
        name, description = self._text(_NAME), self._text(b"expert weights on disk, in RAM and on devices")
        made = abi.ggml_backend_device()
        fenced, iface, kinds = self._fenced, made.iface, abi
        accel = abi.GGML_BACKEND_DEVICE_TYPE_ACCEL
        iface.get_name = fenced(kinds.ggml_backend_device_i_get_name, lambda _: name, name)
        iface.get_description = fenced(kinds.ggml_backend_device_i_get_description, lambda _: description, description)
        iface.get_memory = fenced(kinds.ggml_backend_device_i_get_memory, _no_memory, None)
        iface.get_type = fenced(kinds.ggml_backend_device_i_get_type, lambda _: accel, accel)

        def properties(_device: int, props: int) -> None:
            told = abi.ggml_backend_dev_props.from_address(props)
            ctypes.memset(props, 0, ctypes.sizeof(told))
            told.name, told.description, told.type = name, description, accel

        iface.get_props = fenced(kinds.ggml_backend_device_i_get_props, properties, None)
        iface.init_backend = fenced(kinds.ggml_backend_device_i_init_backend, lambda *_: self._make_backend(), None)
        cpu = self.cpu_buffer_type
        iface.get_buffer_type = fenced(
            kinds.ggml_backend_device_i_get_buffer_type, lambda _: self._activations_type, cpu
        )
        iface.supports_op = fenced(kinds.ggml_backend_device_i_supports_op, self._supports_op, False)
        iface.supports_buft = fenced(kinds.ggml_backend_device_i_supports_buft, self._supports_buffer_type, False)
        return made

    def _make_store(self) -> Any:
        """Return the device of the experts' buffer type: asynchronous copies, and events that are always over."""
        name, cpu, weights = self._text(_NAME), self.cpu_buffer_type, self.buffer_type_address
        made = abi.ggml_backend_device()
        fenced, iface, kinds = self._fenced, made.iface, abi
        accel = abi.GGML_BACKEND_DEVICE_TYPE_ACCEL
        self._event = (ctypes.c_void_p * 2)(address_of(made), None)  # struct ggml_backend_event: device, context
        event = ctypes.addressof(self._event)

        def properties(_device: int, props: int) -> None:
            told = abi.ggml_backend_dev_props.from_address(props)
            ctypes.memset(props, 0, ctypes.sizeof(told))
            told.name, told.description, told.type = name, name, accel
            for capability in ("async", "host_buffer", "events"):
                setattr(told.caps, capability, True)

        iface.get_name = fenced(kinds.ggml_backend_device_i_get_name, lambda _: name, name)
        iface.get_description = fenced(kinds.ggml_backend_device_i_get_description, lambda _: name, name)
        iface.get_memory = fenced(kinds.ggml_backend_device_i_get_memory, _no_memory, None)
        iface.get_type = fenced(kinds.ggml_backend_device_i_get_type, lambda _: accel, accel)
        iface.get_props = fenced(kinds.ggml_backend_device_i_get_props, properties, None)
        iface.init_backend = fenced(kinds.ggml_backend_device_i_init_backend, lambda *_: self._make_copier(made), None)
        iface.get_buffer_type = fenced(kinds.ggml_backend_device_i_get_buffer_type, lambda _: weights, weights)
        iface.get_host_buffer_type = fenced(kinds.ggml_backend_device_i_get_host_buffer_type, lambda _: cpu, cpu)
        iface.supports_op = fenced(kinds.ggml_backend_device_i_supports_op, lambda *_: False, False)
        iface.supports_buft = fenced(kinds.ggml_backend_device_i_supports_buft, lambda *_: False, False)
        iface.event_new = fenced(kinds.ggml_backend_device_i_event_new, lambda _: event, None)
        iface.event_free = fenced(kinds.ggml_backend_device_i_event_free, lambda *_: None, None)
        iface.event_synchronize = fenced(kinds.ggml_backend_device_i_event_synchronize, lambda *_: None, None)
        self._alive.append(made)
        return made

    def _make_copier(self, device: Any) -> int:
        """Return the store's backend, whose copies do nothing."""
        name = self._text(_NAME)
        made = abi.ggml_backend()
        made.guid, made.device = ctypes.addressof(self._guid), address_of(device)
        made.iface.get_name = self._fenced(abi.ggml_backend_i_get_name, lambda _: name, name)
        made.iface.free = self._fenced(abi.ggml_backend_i_free, lambda _: None, None)
        made.iface.set_tensor_async = self._fenced(abi.ggml_backend_i_set_tensor_async, lambda *_: None, None)
        made.iface.event_record = self._fenced(abi.ggml_backend_i_event_record, lambda *_: None, None)
        self._alive.append(made)
        return address_of(made)

    def _make_registry(self) -> Any:
        name, device = self._text(_NAME), address_of(self._device)
        made = abi.ggml_backend_reg()
        made.api_version = abi.GGML_BACKEND_API_VERSION
        iface = made.iface
        iface.get_name = self._fenced(abi.ggml_backend_reg_i_get_name, lambda _: name, name)
        iface.get_device_count = self._fenced(abi.ggml_backend_reg_i_get_device_count, lambda _: 1, 0)
        iface.get_device = self._fenced(abi.ggml_backend_reg_i_get_device, lambda *_: device, None)
        iface.get_proc_address = self._fenced(abi.ggml_backend_reg_i_get_proc_address, lambda *_: None, None)
        return made

    def _make_backend(self) -> int:
        name = self._text(_NAME)
        made = abi.ggml_backend()
        made.guid = ctypes.addressof(self._guid)
        made.device = address_of(self._device)
        made.iface.get_name = self._fenced(abi.ggml_backend_i_get_name, lambda _: name, name)
        made.iface.free = self._fenced(abi.ggml_backend_i_free, lambda _: None, None)
        made.iface.graph_compute = abi.ggml_backend_i_graph_compute(self._compute_address)
        self._alive.append(made)
        return address_of(made)

    def _compute_function(self) -> Any:
        """The hot one: a frame less than the others."""
        failed = abi.GGML_STATUS_FAILED

        def compute(_backend: int, graph: int) -> int:
            try:
                return self._runner.run(graph)  # type: ignore[union-attr]
            except BaseException as error:
                self._errors.append(error)
                return failed

        function = abi.ggml_backend_i_graph_compute(compute)
        self._alive.append(function)
        return function

    def _allocate(self, _type: int, n_bytes: int) -> int:
        """Reserve addresses for the experts; no memory stands behind them."""
        base = _reserve(n_bytes)
        buffer = int(
            self._ggml.ggml_backend_buffer_init(self.buffer_type_address, self._buffer_interface, base, n_bytes)
        )
        self._reserved[buffer] = base, n_bytes
        return buffer

    def _free(self, buffer: int) -> None:
        base, n_bytes = self._reserved.pop(buffer, (0, 0))
        if base:
            _libc().munmap(base, _padded(n_bytes))

    def _base(self, buffer: int) -> int:
        return self._reserved[buffer][0]

    def _refuse_to_read(self, *_: Any) -> None:
        raise NotImplementedError("the experts' buffer cannot be read back")

    def _supports_op(self, _device: int, op: int) -> bool:
        kind = ctypes.c_int32.from_address(op + _OP_AT).value
        if kind in _ALWAYS:
            return True
        if kind == _MUL_MAT_ID:
            return self._is_expert(_pointer(op + _SRC_AT))
        if kind == _GLU:
            source = _pointer(op + _SRC_AT)
            if source and ctypes.c_int32.from_address(source + _OP_AT).value == _VIEW:
                source = _pointer(source + _SRC_AT)
            if source and ctypes.c_int32.from_address(source + _OP_AT).value == _MUL_MAT_ID:
                return self._is_expert(_pointer(source + _SRC_AT))
        return False

    def _is_expert(self, weights: int) -> bool:
        buffer = _pointer(weights + _BUFFER_AT) if weights else 0
        return bool(buffer) and abi.ggml_backend_buffer.from_address(buffer).buft == self.buffer_type_address

    def _supports_buffer_type(self, _device: int, buffer_type: int) -> bool:
        if buffer_type == self.buffer_type_address:
            return True
        known = self._host_types.get(buffer_type)
        if known is None:
            known = self._host_types[buffer_type] = bool(self._ggml.ggml_backend_buft_is_host(buffer_type))
        return known


def _pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


def _address_of_function(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _no_memory(_device: int, free: int, total: int) -> None:
    ctypes.c_size_t.from_address(free).value = 0
    ctypes.c_size_t.from_address(total).value = 0


def _reserve(n_bytes: int) -> int:
    """Reserve addresses that nobody may touch (PROT_NONE): not counted as memory, however many."""
    base = _libc().mmap(None, _padded(n_bytes), 0, _RESERVE, -1, 0)
    if base is None or base == ctypes.c_void_p(-1).value:
        raise MemoryError(f"no {n_bytes} bytes of address space")
    return int(base)


def _padded(n_bytes: int) -> int:
    return -(-max(n_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
    ]  # fmt: skip
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc
