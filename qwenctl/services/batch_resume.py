"""Whether what an output file holds belongs to this input, these models and these options. Reads, changes nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from qwenctl.core import ModelInfo
from qwenctl.errors import InvalidRequest
from qwenctl.services.batch_input import BatchInput
from qwenctl.services.batch_names import LineNames
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.batch_output import BatchOutput
from qwenctl.services.fingerprint_table import fingerprint

_DEFAULT_ID = re.compile(r"line-\d+-[0-9a-f]{8}")
_START_ANEW = "--restart answers all lines anew; another output file keeps both"


def settings_digest(model: ModelInfo | None, served: Iterable[str], options: BatchOptions) -> str:
    """Return a digest of all that makes the same line get another answer.

    Args:
        model: the one that is opened here, if one is.
        served: what servers say of the models that they answer with; how many servers and where does not matter.
        options: of the batch.
    """
    chat, what = options.chat, list[Any]()
    if model is not None:
        what += [model.name, model.architecture, model.n_weights, model.file_bytes, model.chat_template]
    what += [options.system, chat.thinking, dict(chat.sampling), chat.max_tokens, chat.stop]
    what.append(chat.overflow != "refuse" and chat.overflow)
    what += [list(chat.tools), dict(chat.template_variables)]
    later = {
        "served": sorted(set(served)),
        "think_budget": chat.think_budget,
        "answer_schema": chat.answer_schema,
        "n_logprobs": chat.n_logprobs,
        "logit_bias": [[one.token, one.bias] for one in chat.logit_bias],
    }
    if later := {name: value for name, value in later.items() if value not in (None, [])}:
        what.append(later)  # only what is said: files of earlier versions are gone on with
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def check_earlier_results(lines: BatchInput, output: BatchOutput, settings: str) -> int:
    """Refuse to go on where earlier results do not belong to this input; return the bytes of the lines they answer.

    Results of lines that were removed since may stay when the line had a name of its own.

    Raises:
        InvalidRequest: other settings, or a line has other content than when it was answered; the message names it.
    """
    if not len(output.answered):
        return 0
    if output.settings != {settings}:
        raise InvalidRequest(f"{output.path} was written by another model or with other options", _START_ANEW)
    names, n_matching, n_bytes = LineNames(), 0, 0
    for line in lines.lines():
        request, name = names.read(line)
        if (answered := output.answered.get(name)) is None:
            continue
        n_matching += 1
        n_bytes += line.n_bytes
        if answered != fingerprint(request.sha256.encode()):
            what = f"line {line.number} of {lines.path} ({request.custom_id!r}) was changed"
            raise InvalidRequest(f"{what} since {output.path} answered it", _START_ANEW)
    for record in output.records() if n_matching < len(output.answered) else ():
        custom_id = record.key.custom_id
        if _DEFAULT_ID.fullmatch(custom_id) and fingerprint(custom_id.encode()) not in names:
            what = f"{output.path} answers {custom_id!r}"
            raise InvalidRequest(f"{what}, which {lines.path} no longer has: it was changed since", _START_ANEW)
    return n_bytes
