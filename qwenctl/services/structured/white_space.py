"""White space in generated JSON: none, a space, or a line break with its indentation; never without end. Pure."""

from __future__ import annotations

from qwenctl.services.structured.grammar_rules import Repeat, RuleTable, literal

_MAX_INDENT = 24


def gap_rule(rules: RuleTable) -> str:
    """Return the name of the rule for what may stand after brackets and commas, and before closing brackets."""
    space = rules.add("space", [[literal(" ")]])
    return rules.add("gap", [[], [literal(" ")], [literal("\n"), Repeat(space, 0, _MAX_INDENT)]])


def colon_rule(rules: RuleTable) -> str:
    """Return the name of the rule for the colon after a key."""
    return rules.add("colon", [[literal(":")], [literal(": ")]])
