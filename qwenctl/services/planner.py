"""Plans for a model that was named, on this machine or on described ones: finds both, and has planning decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quant.recipe import find_output_type
from qwenctl.errors import DoesNotFit, InvalidRequest
from qwenctl.planning.commands import VllmRoad, run_commands, vllm_road
from qwenctl.planning.machine import Machine
from qwenctl.planning.machine_text import parse_machine
from qwenctl.planning.placement import ContextRequest
from qwenctl.planning.plan import QUALITY_ORDER, Layouts, RunPlan, no_layouts, plan_best, plan_quant
from qwenctl.services.plan_source import PlanSource
from qwenctl.services.this_machine import look_at_this_machine
from qwenctl.settings import Settings


@dataclass(frozen=True, slots=True)
class Advice:
    """A plan and the commands that carry it out; `vllm` where serving outgrows this program."""

    plan: RunPlan
    commands: tuple[str, ...]
    vllm: VllmRoad | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One combination: its advice, or why it does not fit."""

    machine: Machine
    quant: str | None  # None: the file's own types
    advice: Advice | None
    obstacle: str | None = None


class Planner:
    """Plans for one model.

    Args:
        source: the model.
        settings: of the program.
        rpc: "host:port" of workers whose devices this machine may use.
    """

    def __init__(self, source: PlanSource, settings: Settings, rpc: tuple[str, ...] = ()) -> None:
        self._source, self._settings, self._rpc = source, settings, rpc

    def advise(self, machine: str | None, quant: str | None, request: ContextRequest) -> Advice:
        """Return the plan for one quantization, or the best one that fits.

        Args:
            machine: described; None: this one.
            quant: of the file; None: the best, or that of the file that is there.
            request: the context.

        Raises:
            DoesNotFit: it does not.
            InvalidRequest: a machine that is none, or another type than the file's.
        """
        found, layouts = self._machine(machine)
        return self._advice(found, layouts, self._checked(quant), request)

    def compare(
        self, machines: Sequence[str | None], quants: Sequence[str], request: ContextRequest
    ) -> Iterator[Compared]:
        """Yield every combination of machines and quantizations; without `quants`, all that are worth planning for.

        Raises:
            InvalidRequest: as `advise`.
        """
        types: Sequence[str | None] = [self._checked(quant) for quant in quants]
        if not types:
            types = [None] if self._source.outline.types is not None else QUALITY_ORDER
        for machine in machines:
            found, layouts = self._machine(machine)
            for quant in types:
                try:
                    yield Compared(found, quant, self._advice(found, layouts, quant, request))
                except DoesNotFit as error:
                    yield Compared(found, quant, None, error.message)

    def _checked(self, quant: str | None) -> str | None:
        if quant is None:
            return None
        if self._source.outline.types is None:
            return find_output_type(quant).name
        if self._source.kind == "hub gguf" and (self._source.quant or "").lower() == quant.lower():
            return None
        asked = self._source.asked
        raise InvalidRequest(f"{asked} is a GGUF file and has its types", "leave --quant out, or name the checkpoint")

    def _machine(self, described: str | None) -> tuple[Machine, Layouts]:
        if described is not None:
            if self._rpc:
                raise InvalidRequest("--rpc is of this machine, --machine describes another", "leave one of them out")
            return parse_machine(described), no_layouts
        this = look_at_this_machine(self._settings, self._source.path, self._rpc)
        return this.machine, this.layouts

    def _advice(self, machine: Machine, layouts: Layouts, quant: str | None, request: ContextRequest) -> Advice:
        outline, asked, kind = self._source.outline, self._source.asked, self._source.kind
        if quant is None:
            plan = plan_best(outline, machine, request, layouts)
        else:
            plan = plan_quant(outline, quant, machine, request, layouts)
        return Advice(plan, run_commands(plan, asked, kind, self._rpc), vllm_road(plan, asked, kind))
