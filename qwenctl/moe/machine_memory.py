"""What a machine has for a model: values that the sizing takes. Knows nothing of how they are found out.

All bytes. "This process" is the one that will hold the model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device of type GPU, as ggml names it ("CUDA0", "RPC0[127.0.0.1:50052]")."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Main memory as this process may use it, and the devices.

    Raises:
        ValueError: a negative number.
    """

    available_bytes: int  # that may still be taken: nobody is swapped out, no limit is met
    used_bytes: int  # that this process holds already and no page cache can give back (anonymous, shared)
    limit_bytes: int  # that this process could have at the very most: memory of the machine or its control group
    bound_by: str = "this machine"  # what `available_bytes` comes from, for messages
    shared: bool = True  # others take from the same memory: the machine is the bound, no control group
    address_space_bytes: int | None = None  # that may still be mapped; None: any amount
    devices: tuple[DeviceMemory, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.available_bytes, self.used_bytes, self.limit_bytes, self.address_space_bytes or 0)
        if min(sizes) < 0:
            raise ValueError(f"sizes of memory must not be negative: {sizes}")

    @property
    def budget_bytes(self) -> int:
        """What this process may hold in all, counting what it holds already."""
        return self.available_bytes + self.used_bytes
