"""How the next token is to be chosen, in the names of OpenAI's API and those that other servers added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.core import N_SEEDS, SamplingParams, TokenBias
from qwenctl.errors import InvalidRequest
from qwenctl.services.api.body_fields import BadRequest, read_mapping, read_number, read_text, read_whole_number
from qwenctl.services.grammar_check import check_grammar
from qwenctl.services.grammar_readings import check_readings

NUMBERS = {  # field → parameter of SamplingParams
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
}
_MOST_GRAMMAR = 1 << 16  # its checks take a tenth of a second
FIELDS = frozenset({*NUMBERS, "top_k", "seed", "grammar", "logit_bias"})

_MOST_BIASES = 1024


def read_sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of SamplingParams, those that were given.

    A seed of any size is folded into the 32 bits that llama.cpp has. `top_k` -1 is off, as in vLLM.

    Raises:
        BadRequest: a value is no number, or out of range.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, parameter in NUMBERS.items():
        number = read_number(body, name)
        if number is not None:
            values[parameter], names[parameter] = number, name
    top_k = read_whole_number(body, "top_k", -1, (1 << 30) - 1)
    if top_k is not None:
        values["top_k"] = max(0, top_k)
    seed = body.get("seed")
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise BadRequest("'seed' must be a whole number", "seed")
        values["seed"] = seed % N_SEEDS
    grammar = read_text(body, "grammar")
    if grammar is not None:
        values["grammar"] = _checked_grammar(grammar)
    for parameter, value in values.items():
        _check(parameter, value, names.get(parameter, parameter))
    return values


def _checked_grammar(grammar: str) -> str:
    """One of a stranger: what would stop everybody's answers is refused."""
    if len(grammar) > _MOST_GRAMMAR:
        raise BadRequest(f"'grammar' must have at most {_MOST_GRAMMAR:,} characters", "grammar")
    try:
        check_grammar(grammar)
        check_readings(grammar)
    except InvalidRequest as error:
        raise BadRequest(error.message, "grammar") from error
    return grammar


def read_biases(body: Mapping[str, Any]) -> tuple[TokenBias, ...]:
    """Return `logit_bias`, token → -100 to 100.

    Raises:
        BadRequest: a key is no token number, or a value out of range.
    """
    given = read_mapping(body, "logit_bias")
    if len(given) > _MOST_BIASES:
        raise BadRequest(f"'logit_bias' must not have more than {_MOST_BIASES} tokens", "logit_bias")
    biases = []
    for token, bias in given.items():
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not (token.isascii() and token.isdigit() and len(token) < 10 and is_number and -100 <= bias <= 100):
            raise BadRequest("'logit_bias' must map numbers of tokens to numbers from -100 to 100", "logit_bias")
        biases.append(TokenBias(int(token), float(bias)))
    return tuple(biases)


def _check(parameter: str, value: Any, name: str) -> None:
    one: dict[str, Any] = {parameter: value}
    try:
        SamplingParams(**one)
    except ValueError as error:
        raise BadRequest(str(error).replace(parameter, f"'{name}'", 1), name) from error
