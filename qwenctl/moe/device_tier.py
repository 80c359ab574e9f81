"""Experts on devices, as the engine sees them: which layer's experts are where, compute there, bring more.

    tier = DeviceTier(calls, layers, [DevicePlace(device, positions, budget_bytes), …])
    tier.slot_of[position]                      expert → slot of its device, -1: not there; None: no slots at all
    run = tier.start(position, slots, tokens, x, glu_params);  … the CPU's part …;  tier.finish(run, out, rows)
    writers = tier.begin_upload(position, expert, keep);  each writer(address) from any thread;  tier.end_upload(…)

Each layer's slots are on one device, the one that holds the layer; devices run side by side. Only `slot_of` is touched
for a layer without slots, so a machine without devices pays for nothing. Knows nothing of RAM or files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from qwenctl.moe.device_executor import LARGEST_CHUNK, DeviceExecutor, Run
from qwenctl.moe.device_places import DeviceFacts, DevicePlace, widths_of
from qwenctl.moe.device_pools import DevicePool, open_pools
from qwenctl.moe.device_prompt import PromptCall, PromptExecutor
from qwenctl.moe.devices import Device, DeviceCalls
from qwenctl.moe.expert_map import MoeLayer
from qwenctl.moe.ggml_calls import address_of
from qwenctl.moe.queued_copies import Copy, QueuedCopies


@dataclass(slots=True)
class _Used:
    """One device at work."""

    place: DevicePlace
    executor: DeviceExecutor
    pools: dict[int, DevicePool]
    copies: QueuedCopies
    prompts: PromptExecutor | None = None
    n_passed: int = 0
    n_runs: int = 0
    n_pairs: int = 0
    n_uploads: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0


class DeviceTier:
    """Devices with expert slots.

    Attributes:
        slot_of: by position: expert → slot, -1: not there; None for a layer without slots. The inner lists are always
            the same objects; not to be written.
        notes: a line for each thing that was planned and could not be had.

    Args:
        calls: the library.
        layers: of the expert map.
        places: what each device is to hold. A device that gives no memory is left out, with a note.
        chunk_pairs: most pairs in one graph.

    Raises:
        ValueError: a layer is placed twice.
    """

    def __init__(
        self,
        calls: DeviceCalls,
        layers: Sequence[MoeLayer],
        places: Sequence[DevicePlace],
        *,
        chunk_pairs: int = LARGEST_CHUNK,
    ) -> None:
        positions = [position for place in places for position in place.positions]
        if len(set(positions)) < len(positions):
            raise ValueError("a layer is placed on two devices")
        self.slot_of: list[list[int] | None] = [None] * len(layers)
        self.notes: tuple[str, ...] = ()
        self.calls = calls
        self._used: list[_Used] = []
        self._by_position: list[tuple[_Used, DevicePool] | None] = [None] * len(layers)
        try:
            for place in places:
                self._open(calls, layers, place, chunk_pairs)
        except BaseException:
            self.close()
            raise

    def pool(self, position: int) -> DevicePool | None:
        """Return a layer's slots, None: it has none."""
        found = self._by_position[position]
        return found[1] if found else None

    def device_of(self, position: int) -> Device | None:
        """Return the device that holds a layer's slots, None: the layer has none."""
        found = self._by_position[position]
        return found[0].place.device if found else None

    def device_at(self, position: int) -> Device:
        """Return the device of a layer that has slots."""
        return self._at(position)[0].place.device

    def label_of(self, position: int) -> str:
        """Return the name of the device that holds a layer's slots."""
        return self._at(position)[0].place.device.label

    def start(
        self, position: int, slots: Sequence[int], tokens: Sequence[int] | None, x_address: int, glu_params: bytes
    ) -> Run:
        """Queue experts of one layer on its device and return at once.

        Args:
            position: of the layer.
            slots: of each (token, expert) pair, from `slot_of`; not empty.
            tokens: the row of x of each pair; None: row 0 for all (a decode step of one sequence).
            x_address: of x, float32 (n_tokens, n_embd); must not change before `finish`.
            glu_params: op_params of the layer's GLU node, 64 bytes.

        Raises:
            GenerationFailed: the device reports that it cannot compute.
        """
        used, pool = self._at(position)
        used.copies.order(position, used.executor.backend)
        return used.executor.start(pool, slots, tokens, x_address, glu_params)

    def finish(self, position: int, run: Run, out_address: int, rows: Sequence[int]) -> None:
        """Wait for a run and write the row of each pair into `out`, float32 (n_rows, n_embd).

        Raises:
            GenerationFailed: the device reports that it cannot compute.
        """
        used, _ = self._at(position)
        used.executor.finish(run, out_address, rows)
        used.n_runs += 1
        used.n_pairs += run.n_pairs
        used.busy_s += run.finished_s - run.started_s
        used.waited_s += run.finished_s - run.waited_from_s

    def takes_prompts(self, position: int, n_tokens: int) -> bool:
        """Return whether `start_prompt` may be called for so many tokens."""
        prompts = self._at(position)[0].prompts
        return prompts is not None and n_tokens <= prompts.space.n_tokens

    def start_prompt(self, position: int, call: PromptCall) -> None:
        """Queue all of a micro-batch's pairs whose experts lie on the device or pass through it.

        Args:
            position: of the layer.
            call: what is to be computed; nothing that it names may change before `finish_prompt`.

        Raises:
            GenerationFailed: the device reports that it cannot compute.
        """
        used, pool = self._at(position)
        if used.prompts is None:
            raise ValueError(f"{used.place.device.label} takes no prompts")
        used.copies.order(position, used.executor.backend)
        used.prompts.start(pool.layer, pool, call)
        used.n_passed += len(call.passing)

    def finish_prompt(self, position: int, out_address: int, others: npt.NDArray[np.intp] | None = None) -> float:
        """Wait for `start_prompt` and write the row of each pair into `out`, float32 (n_rows, n_embd).

        Args:
            position: of the layer.
            out_address: of the output.
            others: rows of the output that are not the device's and stay as they are; None: there are none.

        Returns:
            The seconds that it waited and copied.
        """
        used, _ = self._at(position)
        began = perf_counter()
        if used.prompts is not None:
            used.n_pairs += used.prompts.finish(out_address, others)
        used.n_runs += 1
        waited_s = perf_counter() - began
        used.waited_s += waited_s
        return waited_s

    def abandon(self) -> None:
        """Wait for whatever is under way and forget it: after an error between `start` and `finish`."""
        for used in self._used:
            used.executor.abandon()
            if used.prompts is not None:
                used.prompts.abandon()

    def begin_upload(self, position: int, expert: int, keep: Collection[int] = ()) -> list[Callable[[int], None]]:
        """Give an absent expert a slot; the coldest expert leaves for it if none is free.

        Args:
            position: of the layer.
            expert: which one.
            keep: experts that must stay: those that the device is computing in this layer now.

        Returns:
            One function a matrix, in the order of the layer's tensors. Called with the address of the file's plain
            bytes, from any thread, it returns when that memory may change. After all of them: `end_upload`.

        Raises:
            ValueError: the expert has a slot, or every slot holds one that must stay.
        """
        _, pool = self._at(position)
        pool.admit(expert, keep)
        return [partial(pool.write, expert, index) for index in range(len(pool.layer.tensors))]

    def end_upload(self, position: int, expert: int, *, arrived: bool = True) -> None:
        """Let an expert be computed with whose writers have all returned, or give its slot back if one failed."""
        used, pool = self._at(position)
        if arrived:
            pool.publish(expert)
            used.n_uploads += 1
        else:
            pool.drop(expert)

    def upload(self, position: int, expert: int, addresses: Sequence[int], keep: Collection[int] = ()) -> None:
        """Bring an expert to its device now: `begin_upload`, writing from `addresses` (one a matrix), `end_upload`."""
        for write, address in zip(self.begin_upload(position, expert, keep), addresses, strict=True):
            write(address)
        self.end_upload(position, expert)

    def upload_queued(self, position: int, expert: int, addresses: Sequence[int], keep: Collection[int]) -> None:
        """Bring an expert along with the next `start` of its device, without waiting for it.

        Args:
            position: of the layer.
            expert: which one.
            addresses: of the plain bytes of each matrix; they must not change before that run's `finish`.
            keep: experts that must stay: all of this step.

        Raises:
            ValueError: as `begin_upload`.
        """
        used, pool = self._at(position)
        used.copies.order(position, used.executor.backend)
        for copy in _admitted(pool, expert, addresses, keep):
            used.executor.queue_write(*copy)
        pool.publish(expert)
        used.n_uploads += 1

    def can_copy_beside(self, position: int) -> bool:
        """Return whether `copy_beside` may be called for a layer."""
        return self._at(position)[0].copies.is_possible

    def copy_beside(self, position: int, expert: int, addresses: Sequence[int], keep: Collection[int]) -> None:
        """Bring an expert beside what its device computes, for later runs of the layer; not between start and finish.

        Args:
            position: of the layer.
            expert: which one.
            addresses: of the plain bytes of each matrix, in pinned memory; they must never change.
            keep: experts that must stay.

        Raises:
            ValueError: as `begin_upload`.
        """
        used, pool = self._at(position)
        used.copies.queue(position, _admitted(pool, expert, addresses, keep))
        pool.publish(expert)
        used.n_uploads += 1

    def stats(self) -> tuple[DeviceFacts, ...]:
        """Return what each device holds and did."""
        return tuple(
            DeviceFacts(
                label=used.place.device.label,
                n_layers=len(used.pools),
                n_slots=sum(pool.slots.n_slots for pool in used.pools.values()),
                slots_bytes=sum(pool.n_bytes for pool in used.pools.values()),
                workspace_bytes=used.executor.device_bytes + (used.prompts.space.n_bytes if used.prompts else 0),
                n_runs=used.n_runs,
                n_pairs=used.n_pairs,
                n_uploads=used.n_uploads,
                n_passed=used.n_passed,
                busy_s=used.busy_s,
                waited_s=used.waited_s,
            )
            for used in self._used
        )

    def reset_counts(self) -> None:
        """Count what devices do from zero."""
        for used in self._used:
            used.n_runs = used.n_pairs = used.n_uploads = used.n_passed = 0
            used.busy_s = used.waited_s = 0.0

    def check_integrity(self) -> None:
        """Raise AssertionError unless every pool's slots in are its slots out."""
        for used in self._used:
            for pool in used.pools.values():
                pool.check_integrity()

    def close(self) -> None:
        """Wait for the devices and free what was taken of them."""
        while self._used:
            used = self._used.pop()
            used.executor.abandon()
            used.copies.close()
            if used.prompts is not None:
                used.prompts.close()
            used.executor.close()
            for position, pool in used.pools.items():
                self.slot_of[position] = self._by_position[position] = None
                pool.close()

    def _at(self, position: int) -> tuple[_Used, DevicePool]:
        found = self._by_position[position]
        if found is None:
            raise ValueError(f"layer {position} has no slots on a device")
        return found

    def _open(self, calls: DeviceCalls, layers: Sequence[MoeLayer], place: DevicePlace, chunk_pairs: int) -> None:
        held = {position: layers[position] for position in place.positions}
        if not held:
            return
        try:
            executor = DeviceExecutor(calls, place.device, widths_of(held.values()), chunk_pairs=chunk_pairs)
        except MemoryError as error:
            self.notes += (str(error),)
            return
        opened = open_pools(calls, place.device, held, place.budget_bytes - executor.device_bytes)
        self.notes += opened.notes
        if not opened.pools:
            executor.close()
            return
        copies, prompts = QueuedCopies(calls, place.device), self._prompts(calls, place, executor)
        used = _Used(place, executor, opened.pools, copies, prompts)
        self._used.append(used)
        for position, pool in opened.pools.items():
            self.slot_of[position] = pool.slot_of
            self._by_position[position] = used, pool

    def _prompts(self, calls: DeviceCalls, place: DevicePlace, executor: DeviceExecutor) -> PromptExecutor | None:
        if place.prompts is None:
            return None
        try:
            return PromptExecutor(calls, place.device, executor.backend, place.prompts)
        except MemoryError as error:
            self.notes += (str(error),)
            return None


def _admitted(pool: DevicePool, expert: int, addresses: Sequence[int], keep: Collection[int]) -> list[Copy]:
    """Give an expert a slot; return the copies that fill it."""
    pool.admit(expert, keep)
    slot = pool.slots.slot_of[expert]
    return [
        (address_of(tensor), address, slot * info.expert_bytes, info.expert_bytes)
        for tensor, info, address in zip(pool.tensors, pool.layer.tensors, addresses, strict=True)
    ]
