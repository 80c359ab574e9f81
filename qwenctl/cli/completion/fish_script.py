"""The completion script for fish 3 and newer."""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.cli.completion.completion_table import CommandWords, OptionWords, Value

_HEAD = r"""# qwenctl: completion for fish. Written by `qwenctl completion fish`.
# Words that depend on this machine are asked for: `qwenctl completion --values models`.

function __qwenctl_at # PATH: whether the words before the cursor name exactly this command
    set -l at ""
    for word in (commandline -opc)[2..-1]
        if contains -- "$at/$word" @PATHS@
            set at "$at/$word"
        end
    end
    test "$at" = "$argv[1]"
end

function __qwenctl_values
    qwenctl completion --values $argv[1] 2>/dev/null
end

complete -c qwenctl -f
"""


def fish_script(table: Sequence[CommandWords]) -> str:
    """Return the script."""
    lines = [_HEAD.replace("@PATHS@", " ".join(entry.place for entry in table if entry.path))]
    for entry in table:
        start = f"complete -c qwenctl -n '__qwenctl_at \"{entry.place}\"'"
        lines.extend(f"{start} -a {name} -d {_quoted(summary.rstrip('.'))}\n" for name, summary in entry.commands)
        for value in dict.fromkeys(entry.words):
            if value.kind != "nothing":
                lines.append(f"{start}{_values(value)}\n")
        lines.extend(f"{start}{_option(option)}\n" for option in entry.options)
    return "".join(lines)


def _option(option: OptionWords) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names)
    about = f"{names} -d {_quoted(option.summary)}"
    if option.value is None:
        return about
    values = _values(option.value)
    return f"{about} -r{values}" if " -F" in values else f"{about} -x{values}"


def _values(value: Value) -> str:
    files = " -F" if value.or_files or value.kind == "files" else ""
    if value.kind == "choices":
        return f"{files} -a {_quoted(' '.join(value.choices))}"
    if value.kind in ("files", "nothing"):
        return files
    return f"{files} -a '(__qwenctl_values {value.kind})'"


def _quoted(text: str) -> str:
    """Return `text` between single quotes, in which fish knows backslash and quote alone."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
