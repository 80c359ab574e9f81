"""Live objects of ggml held against the layouts in ggml_abi.py, in both directions.

Objects that ggml makes (tensors, a graph, a buffer) are read through our layouts and compared with what was asked for
and with ggml's own getters. Tables of functions that we make are given to ggml, and each public function must arrive in
the slot that it is for. Run on a library of the right version only: on another it may crash.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint8, c_void_p
from typing import Any

from qwenctl.moe import ggml_abi as abi

_N_TENSORS = 8  # more than the probe makes
_GRAPH_SIZE = 16
_BUFFER_BYTES = 4096
_NAME = b"abi.probe"
_ANSWER = 1 << 20  # of every slot: a pointer that nobody follows, a size above any tensor's, a number, "true"

# Public functions that do nothing but call one slot of the object that is their first argument: (function, what it
# takes after the object, slot). Source: ggml-backend.cpp.
_SlotCalls = tuple[tuple[str, tuple[Any, ...], str], ...]
_P, _N = (c_void_p, _ANSWER), (c_size_t, _BUFFER_BYTES)
_BUFFER_TYPE_CALLS: _SlotCalls = (
    ("ggml_backend_buft_name", (), "get_name"),
    ("ggml_backend_buft_alloc_buffer", (_N,), "alloc_buffer"),
    ("ggml_backend_buft_get_alignment", (), "get_alignment"),
    ("ggml_backend_buft_get_max_size", (), "get_max_size"),
    ("ggml_backend_buft_is_host", (), "is_host"),
)
_BUFFER_CALLS: _SlotCalls = (
    ("ggml_backend_buffer_get_base", (), "get_base"),
    ("ggml_backend_buffer_init_tensor", (_P,), "init_tensor"),
    ("ggml_backend_buffer_clear", ((c_uint8, 0),), "clear"),
    ("ggml_backend_buffer_reset", (), "reset"),
)
_BACKEND_CALLS: _SlotCalls = (
    ("ggml_backend_name", (), "get_name"),
    ("ggml_backend_synchronize", (), "synchronize"),
    ("ggml_backend_graph_plan_create", (_P,), "graph_plan_create"),
    ("ggml_backend_graph_plan_free", (_P,), "graph_plan_free"),
    ("ggml_backend_graph_plan_compute", (_P,), "graph_plan_compute"),
    ("ggml_backend_graph_compute_async", (_P,), "graph_compute"),
    ("ggml_backend_event_wait", (_P,), "event_wait"),
    ("ggml_backend_free", (), "free"),
)
_DEVICE_CALLS: _SlotCalls = (
    ("ggml_backend_dev_name", (), "get_name"),
    ("ggml_backend_dev_description", (), "get_description"),
    ("ggml_backend_dev_memory", (_P, _P), "get_memory"),
    ("ggml_backend_dev_type", (), "get_type"),
    ("ggml_backend_dev_init", (_P,), "init_backend"),
    ("ggml_backend_dev_buffer_type", (), "get_buffer_type"),
    ("ggml_backend_dev_host_buffer_type", (), "get_host_buffer_type"),
    ("ggml_backend_dev_buffer_from_host_ptr", (_P, _N, _N), "buffer_from_host_ptr"),
    ("ggml_backend_dev_supports_op", (_P,), "supports_op"),
    ("ggml_backend_dev_supports_buft", (_P,), "supports_buft"),
    ("ggml_backend_dev_offload_op", (_P,), "offload_op"),
    ("ggml_backend_event_new", (), "event_new"),
)
_REGISTRY_CALLS: _SlotCalls = (
    ("ggml_backend_reg_name", (), "get_name"),
    ("ggml_backend_reg_dev_count", (), "get_device_count"),
    ("ggml_backend_reg_dev_get", (_N,), "get_device"),
    ("ggml_backend_reg_get_proc_address", (_P,), "get_proc_address"),
)


def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """Return one function of a library with this signature, and leave others' bindings of it alone.

    Raises:
        AttributeError: the library does not export it.
    """
    return ctypes.CFUNCTYPE(result, *arguments)((name, library))


def object_disagreements(library: ctypes.CDLL) -> Iterator[str]:
    """Yield where objects that ggml made differ from what our layouts read."""
    n_bytes = _N_TENSORS * bind(library, "ggml_tensor_overhead", c_size_t)()
    n_bytes += bind(library, "ggml_graph_overhead_custom", c_size_t, c_size_t, c_bool)(_GRAPH_SIZE, False)
    context = bind(library, "ggml_init", c_void_p, abi.ggml_init_params)(abi.ggml_init_params(n_bytes, None, True))
    if not context:
        yield "ggml_init makes no context"
        return
    try:
        yield from _differing(_tensor_facts(library, context))
    finally:
        bind(library, "ggml_free", None, c_void_p)(context)
    yield from _differing(_buffer_facts(library))


_Facts = Iterator[tuple[str, object, object]]  # what, as read through our layout, as it should be


def _differing(facts: _Facts) -> Iterator[str]:
    """Yield the first that differs: the rest would be read through a layout that is known to be wrong."""
    for what, read, wanted in facts:
        if read != wanted:
            yield f"{what} reads {read!r}, not {wanted!r}"
            return


def _tensor_facts(library: ctypes.CDLL, context: int) -> _Facts:
    """Look at the tensors and the graph of an expert's step."""
    new = bind(library, "ggml_new_tensor_3d", c_void_p, c_void_p, c_int, c_int64, c_int64, c_int64)
    weights = new(context, abi.GGML_TYPE["Q4_K"], 256, 8, 4)
    inputs = new(context, abi.GGML_TYPE["F32"], 256, 2, 3)
    ids = new(context, abi.GGML_TYPE["I32"], 2, 3, 1)
    bind(library, "ggml_set_name", c_void_p, c_void_p, c_char_p)(weights, _NAME)
    bind(library, "ggml_set_output", None, c_void_p)(weights)
    tensor = abi.ggml_tensor.from_address(weights)
    yield "ggml_tensor.type", tensor.type, abi.GGML_TYPE["Q4_K"]
    yield "ggml_tensor.ne", list(tensor.ne), [256, 8, 4, 1]
    yield "ggml_tensor.nb", list(tensor.nb), [144, 144, 1152, 4608]
    yield "ggml_tensor.op", tensor.op, abi.GGML_OP["NONE"]
    yield "ggml_tensor.flags", tensor.flags, abi.GGML_TENSOR_FLAG_OUTPUT
    yield "ggml_tensor.name", tensor.name, _NAME
    yield "ggml_tensor pointers", (tensor.buffer, tensor.view_src, tensor.data, tensor.extra), (None,) * 4
    tensor.data = _ANSWER
    yield "ggml_tensor.data", bind(library, "ggml_get_data", c_void_p, c_void_p)(weights), _ANSWER

    view = bind(library, "ggml_view_1d", c_void_p, c_void_p, c_void_p, c_int64, c_size_t)(context, inputs, 16, 64)
    viewed = abi.ggml_tensor.from_address(view)
    yield "ggml_tensor.view_src", (viewed.view_src, viewed.view_offs), (inputs, 64)

    multiply = bind(library, "ggml_mul_mat_id", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
    product = multiply(context, weights, inputs, ids)
    node = abi.ggml_tensor.from_address(product)
    yield "ggml_tensor.op", node.op, abi.GGML_OP["MUL_MAT_ID"]
    yield "ggml_tensor.src", list(node.src), [weights, inputs, ids] + [None] * (abi.GGML_MAX_SRC - 3)
    yield from _graph_facts(library, context, product)


def _graph_facts(library: ctypes.CDLL, context: int, product: int) -> _Facts:
    """Look at a graph of `product` and its gated double, which are its two nodes."""
    gate = bind(library, "ggml_glu_split", c_void_p, c_void_p, c_void_p, c_void_p, c_int)
    gated = gate(context, product, product, abi.GGML_GLU_OP["SWIGLU"])
    yield "ggml_tensor.op_params", abi.ggml_tensor.from_address(gated).op_params[0], abi.GGML_GLU_OP["SWIGLU"]
    address = bind(library, "ggml_new_graph_custom", c_void_p, c_void_p, c_size_t, c_bool)(context, _GRAPH_SIZE, False)
    bind(library, "ggml_build_forward_expand", None, c_void_p, c_void_p)(address, gated)
    graph = abi.ggml_cgraph.from_address(address)
    yield "ggml_cgraph counts", (graph.size, graph.n_nodes, graph.n_leafs), (_GRAPH_SIZE, 2, 3)
    yield "ggml_cgraph.nodes", graph.nodes, bind(library, "ggml_graph_nodes", c_void_p, c_void_p)(address)
    yield "ggml_cgraph.nodes", list((c_void_p * 2).from_address(graph.nodes)), [product, gated]
    yield "ggml_cgraph.grads", (graph.grads, graph.grad_accs), (None, None)
    yield "ggml_tensor.flags", abi.ggml_tensor.from_address(gated).flags, abi.GGML_TENSOR_FLAG_COMPUTE


def _buffer_facts(library: ctypes.CDLL) -> _Facts:
    """Look at a small buffer in memory and at its type."""
    type_address = bind(library, "ggml_backend_cpu_buffer_type", c_void_p)()
    allocate = bind(library, "ggml_backend_buft_alloc_buffer", c_void_p, c_void_p, c_size_t)
    address = allocate(type_address, _BUFFER_BYTES)
    buffer = abi.ggml_backend_buffer.from_address(address)
    buffer_type = abi.ggml_backend_buffer_type.from_address(type_address)
    weights = abi.GGML_BACKEND_BUFFER_USAGE_WEIGHTS
    try:
        bind(library, "ggml_backend_buffer_set_usage", None, c_void_p, c_int)(address, weights)
        yield "ggml_backend_buffer.buft", buffer.buft, type_address
        yield "ggml_backend_buffer.size", buffer.size, _BUFFER_BYTES
        yield "ggml_backend_buffer.usage", buffer.usage, weights
        get_base = bind(library, "ggml_backend_buffer_get_base", c_void_p, c_void_p)
        yield "ggml_backend_buffer_i.get_base", buffer.iface.get_base(address), get_base(address)
        get_alignment = bind(library, "ggml_backend_buft_get_alignment", c_size_t, c_void_p)
        alignment = buffer_type.iface.get_alignment(type_address)
        yield "ggml_backend_buffer_type_i.get_alignment", alignment, get_alignment(type_address)
        yield "ggml_backend_buffer_type_i.is_host", buffer_type.iface.is_host(type_address), True
    finally:
        bind(library, "ggml_backend_buffer_free", None, c_void_p)(address)


def slot_disagreements(library: ctypes.CDLL) -> Iterator[str]:
    """Yield which public functions, called on objects that we made, came to another slot than theirs."""
    for slots, owner, calls in (
        (abi.ggml_backend_buffer_type_i, abi.ggml_backend_buffer_type, _BUFFER_TYPE_CALLS),
        (abi.ggml_backend_i, abi.ggml_backend, _BACKEND_CALLS),
        (abi.ggml_backend_device_i, abi.ggml_backend_device, _DEVICE_CALLS),
        (abi.ggml_backend_reg_i, abi.ggml_backend_reg, _REGISTRY_CALLS),
    ):
        called: list[str] = []
        thing = owner(iface=_recording(slots, called))
        yield from _stray_calls(library, ctypes.addressof(thing), calls, called)
    called = []
    iface = _recording(abi.ggml_backend_buffer_i, called)
    make_buffer = bind(
        library, "ggml_backend_buffer_init", c_void_p, c_void_p, abi.ggml_backend_buffer_i, c_void_p, c_size_t
    )
    address = make_buffer(_ANSWER, iface, None, _BUFFER_BYTES)
    yield from _stray_calls(library, address, _BUFFER_CALLS, called)
    yield from _stray_calls(library, address, (("ggml_backend_buffer_free", (), "free_buffer"),), called)


def _recording(slots: Any, called: list[str]) -> Any:
    """Return a table of functions that note their slot's name in `called`."""

    def recorder(name: str) -> Callable[..., int]:
        def record(*_: object) -> int:
            called.append(name)
            return _ANSWER

        return record

    return slots(*(kind(recorder(name)) for name, kind in slots._fields_))


def _stray_calls(library: ctypes.CDLL, address: int, calls: _SlotCalls, called: list[str]) -> Iterator[str]:
    for function, arguments, slot in calls:
        called.clear()
        kinds, values = [kind for kind, _ in arguments], [value for _, value in arguments]
        bind(library, function, None, c_void_p, *kinds)(address, *values)
        if called != [slot]:
            yield f"{function} called slots {called}, not {slot}"
