"""What the rules for one type of value need of the compiler. A contract, nothing else."""

from __future__ import annotations

from typing import Protocol

from qwenctl.services.structured.automaton import Budget
from qwenctl.services.structured.grammar_rules import RuleTable
from qwenctl.services.structured.schema_branches import Goal


class ValueRules(Protocol):
    """The grammar as it grows."""

    rules: RuleTable
    budget: Budget  # of the automata

    def value(self, goal: Goal) -> str:
        """Return the name of the rule for values that satisfy all schemas of `goal`."""

    def leave(self, keyword: str) -> None:
        """Note that `keyword` is left to the check of the answer."""
