"""The completion script for zsh 5 and newer: the same walk as bash's, with descriptions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qwenctl.cli.completion.completion_table import CommandWords, Value

_HEAD = r"""#compdef qwenctl
# qwenctl: completion for zsh. Written by `qwenctl completion zsh`.
# Words that depend on this machine are asked for: `qwenctl completion --values models`.

_qwenctl_offer() { # KIND OR_FILES [CHOICE[:DESCRIPTION]...]
    local kind=$1 or_files=$2 line
    local -a found
    shift 2
    case $kind in
        choices) found=("$@") ;;
        nothing | files) ;;
        *)
            for line in "${(@f)$("$words[1]" completion --values "$kind" 2>/dev/null)}"; do
                [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
            done
            ;;
    esac
    (( $#found )) && _describe -V "$kind" found
    [[ $kind == files || $or_files == yes ]] && _files
    return 0
}

_qwenctl() {
    local cur=$words[CURRENT] prev=$words[CURRENT-1] at="" i
    for ((i = 2; i < CURRENT; i++)); do
        case "$at/$words[i]" in
            @PATHS@) at="$at/$words[i]" ;;
        esac
    done
    case "$at $prev" in
"""
_MIDDLE = r"""    esac
    case "$at" in
"""
_TAIL = r"""    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _qwenctl "$@"
else
    compdef _qwenctl qwenctl
fi
"""


def zsh_script(table: Sequence[CommandWords]) -> str:
    """Return the script."""
    paths = "|".join(entry.place for entry in table if entry.path) or '""'
    lines = [_HEAD.replace("@PATHS@", paths)]
    for entry in table:
        for option in entry.options:
            if option.value is not None:
                names = "|".join(f'"{entry.place} {name}"' for name in option.names)
                lines.append(f"        {names}) {_offer(option.value)}; return ;;\n")
    lines.append(_MIDDLE)
    for entry in table:
        options = [_described(name, option.summary) for option in entry.options for name in option.names]
        lines.append(f'        "{entry.place}")\n')
        lines.append(
            f"            if [[ $cur == -* ]]; then _qwenctl_offer choices no {' '.join(options)}; return; fi\n"
        )
        if entry.commands:
            words = " ".join(_described(name, summary) for name, summary in entry.commands)
            lines.append(f"            _qwenctl_offer choices no {words}\n")
        for value in dict.fromkeys(entry.words):
            if value.kind != "nothing":
                lines.append(f"            {_offer(value)}\n")
        lines.append("            ;;\n")
    return "".join([*lines, _TAIL])


def _described(name: str, summary: str) -> str:
    return shlex.quote(f"{name.replace(':', chr(92) + ':')}:{summary.rstrip('.')}")


def _offer(value: Value) -> str:
    choices = "".join(f" {shlex.quote(choice.replace(':', chr(92) + ':'))}" for choice in value.choices)
    return f"_qwenctl_offer {value.kind} {'yes' if value.or_files else 'no'}{choices}"
