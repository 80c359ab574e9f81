"""The completion script for bash 4 and newer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qwenctl.cli.completion.completion_table import CommandWords, Value

_HEAD = r"""# qwenctl: completion for bash. Written by `qwenctl completion bash`.
# Words that depend on this machine are asked for: `qwenctl completion --values models`.

_qwenctl_offer() { # KIND OR_FILES [CHOICE...]
    local kind=$1 or_files=$2 program=${COMP_WORDS[0]/#\~/$HOME} word
    shift 2
    # Not compgen -W, which runs what is in a word: $(…) in the name of a file.
    if [[ $kind != choices && $kind != nothing && $kind != files ]]; then
        while IFS=$'\t' read -r word _; do
            [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
        done < <("$program" completion --values "$kind" 2>/dev/null)
    fi
    for word in "$@"; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
    done
    if [[ $kind == files || $or_files == yes ]]; then
        compopt -o filenames
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
    fi
}

_qwenctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path="" i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path/${COMP_WORDS[i]}" in
            @PATHS@) path="$path/${COMP_WORDS[i]}" ;;
        esac
    done
    case "$path $prev" in
"""
_MIDDLE = r"""    esac
    case "$path" in
"""
_TAIL = r"""    esac
}

complete -o nosort -F _qwenctl qwenctl 2>/dev/null || complete -F _qwenctl qwenctl
"""


def bash_script(table: Sequence[CommandWords]) -> str:
    """Return the script."""
    paths = "|".join(entry.place for entry in table if entry.path) or '""'
    lines = [_HEAD.replace("@PATHS@", paths)]
    for entry in table:
        for option in entry.options:
            if option.value is not None:
                words = "|".join(f'"{entry.place} {name}"' for name in option.names)
                lines.append(f"        {words}) {_offer(option.value)}; return ;;\n")
    lines.append(_MIDDLE)
    for entry in table:
        names = [name for option in entry.options for name in option.names]
        lines.append(f'        "{entry.place}")\n')
        lines.append(f"            if [[ $cur == -* ]]; then {_offer(Value('choices', tuple(names)))}; return; fi\n")
        offers = [Value("choices", tuple(name for name, _ in entry.commands))] if entry.commands else []
        for value in dict.fromkeys([*offers, *entry.words]):
            if value.kind != "nothing":
                lines.append(f"            {_offer(value)}\n")
        lines.append("            ;;\n")
    return "".join([*lines, _TAIL])


def _offer(value: Value) -> str:
    choices = "".join(f" {shlex.quote(choice)}" for choice in value.choices)
    return f"_qwenctl_offer {value.kind} {'yes' if value.or_files else 'no'}{choices}"
