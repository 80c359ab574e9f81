"""An automaton as grammar rules: one rule a state, one alternative a move. Pure.

    text_rules      the characters as they are: numbers
    string_rules    the characters inside a JSON string, escaped where JSON asks for it
    list_rules      a list of texts

A character has one spelling here, JSON's shortest, unless a move takes every character: then all escapes but those of
surrogates may stand for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qwenctl.services.structured.automaton import ANY, Automaton, Ranges, overlap
from qwenctl.services.structured.grammar_rules import Item, Ref, RuleTable, Terminal, literal, one_of

_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF))
_SHORT = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}


def text_rules(rules: RuleTable, base: str, automaton: Automaton) -> str:
    """Return the name of a rule that matches what `automaton` accepts."""
    return _rules(rules, base, automaton, lambda ranges: [one_of(ranges)])


def string_rules(rules: RuleTable, base: str, automaton: Automaton) -> str:
    """Return the name of a rule that matches what `automaton` accepts, as the inside of a JSON string."""
    return _rules(rules, base, automaton, lambda ranges: _spellings(rules, ranges))


def character_rule(rules: RuleTable) -> str:
    """Return the name of the rule for one character inside a JSON string, whichever."""
    digit = Terminal("[0-9a-fA-F]")
    four = [Terminal("[0-9a-ce-fA-CE-F]"), digit, digit, digit]
    below_surrogates = [Terminal("[dD]"), Terminal("[0-7]"), digit, digit]
    code = rules.add("code", [four, below_surrogates])
    return rules.add(
        "char", [[one_of(_PLAIN)], [literal("\\"), Terminal('["\\\\/bfnrt]')], [literal("\\u"), Ref(code)]]
    )


def _rules(rules: RuleTable, base: str, automaton: Automaton, spell: Callable[[Ranges], Iterable[Item]]) -> str:
    names = [rules.reserve(base) for _ in automaton.moves]
    for state, moves in enumerate(automaton.moves):
        alternatives: list[list[Item]] = [
            [spelling, *_tail(automaton, names, target)] for ranges, target in moves for spelling in spell(ranges)
        ]
        rules.define(names[state], [*alternatives, *([[]] if state in automaton.accepting else [])])
    return names[0]


def _tail(automaton: Automaton, names: list[str], target: int) -> list[Item]:
    """The rule of `target`, or nothing where the match always ends there."""
    return [] if target in automaton.accepting and not automaton.moves[target] else [Ref(names[target])]


def _spellings(rules: RuleTable, ranges: Ranges) -> Iterable[Item]:
    if ranges == ANY:
        yield Ref(character_rule(rules))
        return
    if plain := overlap(ranges, _PLAIN):
        yield one_of(plain)
    special = overlap(ranges, ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))
    for low, high in special:
        for code in range(low, high + 1):
            yield literal(_SHORT.get(code, f"\\u{code:04x}"))


def list_rules(rules: RuleTable, base: str, texts: Iterable[str]) -> str:
    """Return the name of a rule that matches each of `texts`, as they are: a tree in which every fork is one character.

    However long the list is, the grammar follows one path through it.
    """
    top = rules.reserve(base)
    todo = [(top, sorted(set(texts)))]
    for name, ends in todo:  # grows
        by_first: dict[str, list[str]] = {}
        for end in ends:
            by_first.setdefault(end[:1], []).append(end)
        alternatives: list[list[Item]] = []
        for first, group in by_first.items():
            shared = _shared_beginning(group)
            if not first or len(group) == 1:
                alternatives.append([literal(shared)] if shared else [])
                continue
            branch = rules.reserve(base)
            alternatives.append([literal(shared), Ref(branch)])
            todo.append((branch, [end[len(shared) :] for end in group]))
        rules.define(name, alternatives)
    return top


def _shared_beginning(texts: list[str]) -> str:
    """Return what all texts, in ascending order, begin with: the first and the last differ first."""
    first, last = texts[0], texts[-1]
    length = next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:length]
