"""What is said about prompts that are too long, before and while something is done about it."""

from __future__ import annotations

from collections.abc import Callable

from qwenctl.cli.output import Output
from qwenctl.services.overflow.condense import CondenseStep
from qwenctl.services.overflow.policy import OverflowPolicy

_WHAT_COMES = {
    "refuse": "is refused; /clear begins anew, --overflow summarise would condense the earlier turns",
    "truncate-middle": "loses its middle",
    "summarise": "is condensed: the model summarises the earlier turns",
}


def condensing(output: Output) -> Callable[[CondenseStep], None]:
    """Return what `Condenser` tells of each part: a note at the beginning, then a line that changes."""

    def show(step: CondenseStep) -> None:
        if step.part == 1:
            output.status("")
            output.note(step.sentence)
        output.status(f"summarising part {step.part} of {step.n_parts}…")

    return show


def context_warning(n_tokens: int, n_ctx: int, policy: OverflowPolicy) -> str:
    """Return what to say about a conversation that will soon be too long."""
    share = f"{n_tokens:,} of {n_ctx:,} tokens ({n_tokens / n_ctx:.0%})"
    return f"the conversation takes {share}: what does not fit any more {_WHAT_COMES[policy]}"
