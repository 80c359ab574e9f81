"""The device made of callbacks: what it answers ggml, and that no exception crosses C."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.backend import ExpertDevice
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of
from qwenctl.moe.graph_tensors import F32, I32
from qwenctl.services.expert_offload import open_ggml


class Runner:
    """Answers each graph with what it was made with, or raises it."""

    def __init__(self, answer: int | BaseException = 0) -> None:
        self.answer, self.graphs = answer, list[int]()

    def run(self, graph: int) -> int:
        self.graphs.append(graph)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return open_ggml()


@pytest.fixture
def device(ggml: Ggml) -> Iterator[ExpertDevice]:
    shared = ExpertDevice.shared(ggml)
    yield shared
    shared.take_error()


@pytest.fixture
def buffer(ggml: Ggml, device: ExpertDevice) -> Iterator[int]:
    """A buffer for 1 TiB of experts: more than any machine's memory."""
    made = ggml.ggml_backend_buft_alloc_buffer(device.buffer_type_address, 1 << 40)
    assert made
    yield made
    ggml.ggml_backend_buffer_free(made)


def test_there_is_one_a_process(ggml: Ggml, device: ExpertDevice) -> None:
    assert ExpertDevice.shared(ggml) is device
    assert device.take_error() is None


def test_a_second_model_is_refused(device: ExpertDevice) -> None:
    first, second = Runner(), Runner()
    device.attach(first)
    try:
        with pytest.raises(InvalidRequest, match="open in this process already"):
            device.attach(second)
        device.detach(second)  # of no effect: it is not the one
        with pytest.raises(InvalidRequest):
            device.attach(second)
    finally:
        device.detach(first)
    device.attach(second)
    device.detach(second)


def test_the_first_error_is_kept_until_it_is_taken(device: ExpertDevice) -> None:
    first = ValueError("first")
    device.keep_error(first)
    device.keep_error(ValueError("second"))
    assert device.take_error() is first
    assert device.take_error() is None


def test_products_with_experts_are_its_own_and_no_others(ggml: Ggml, device: ExpertDevice, buffer: int) -> None:
    context = TensorContext(ggml, 12)
    weights, x, ids = context.tensor(F32, 32, 16, 4), context.tensor(F32, 32, 1, 3), context.tensor(I32, 2, 3)
    arguments = [address_of(one) for one in (weights, x, ids)]
    product = ggml.ggml_mul_mat_id(context.handle, *arguments)
    matrix = context.tensor(F32, 32, 16)
    other = ggml.ggml_mul_mat(context.handle, address_of(matrix), address_of(x))
    asked = ggml.ggml_backend_dev_supports_op
    address = address_of(device._device)
    assert not asked(address, product)  # weights in no buffer yet
    weights.buffer = matrix.buffer = buffer
    assert asked(address, product)
    assert not asked(address, other)
    glu = ggml.ggml_glu_split(context.handle, product, product, 2)
    assert asked(address, glu)
    assert not asked(address, ggml.ggml_glu_split(context.handle, other, other, 2))
    assert device.take_error() is None
    context.free()


def test_experts_have_addresses_and_no_memory(ggml: Ggml, device: ExpertDevice, buffer: int) -> None:
    made = abi.ggml_backend_buffer.from_address(buffer)
    assert made.buft == device.buffer_type_address
    assert not ggml.ggml_backend_buft_is_host(device.buffer_type_address)
    base = made.iface.get_base(buffer)
    assert base > 0
    assert base % 128 == 0
    context = TensorContext(ggml, 2)
    tensor = context.tensor(F32, 32, 16, 4)
    tensor.buffer, tensor.data = buffer, base
    data = ctypes.create_string_buffer(2048)
    made.iface.set_tensor(buffer, address_of(tensor), ctypes.addressof(data), 0, 2048)  # what is loaded is ignored
    assert device.take_error() is None
    made.iface.get_tensor(buffer, address_of(tensor), ctypes.addressof(data), 0, 2048)
    assert isinstance(device.take_error(), NotImplementedError)
    context.free()
