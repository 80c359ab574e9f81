"""Conversations written by program, for teaching the demo model to talk in ChatML.

They have one turn or several, with thinking or without. An *exchange* is a question, the reasoning that leads to the
answer, and the answer; `exchanges/` makes them. `dialogue` puts one or several together, adds system prompts and the
`/think` and `/no_think` switches; `segments` writes the result exactly as the chat template does, cut into pieces that
say how much each counts in the loss.
"""

from dataclasses import dataclass
from random import Random

import demo_model.exchanges  # noqa: F401 - registers the makers
from demo_model import tools
from demo_model.exchanges.exchange import MAKERS, Exchange


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The system prompt ("" for none), the exchanges, and how the last one is answered."""

    system: str
    exchanges: tuple[Exchange, ...]
    mode: str
    """"think", "no_think_template" (the empty block is in the prompt) or "no_think_switch" (the model writes it)."""


_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are the qwenctl demo model.",
    "You are a friendly assistant. Answer the questions of the user.",
    "Answer truthfully.",
    "You are a small language model. If you don't know something, say so.",
    "Be polite and helpful.",
)
_BRIEF_SYSTEMS = (
    "Answer with one word or number.",
    "Be brief.",
    "Answer as briefly as you can.",
    "Give only the answer.",
)


def _scruffy(rng: Random, text: str) -> str:
    """The same question as people type it: politer, in lower case, without the last mark."""
    draw = rng.random()
    if draw < 0.06:
        return text.lower() if '"' not in text and ":" not in text else text
    if draw < 0.10 and text[-1] in "?.!":
        return text[:-1]
    if draw < 0.13:
        return rng.choice(["Hello! ", "Hi. ", "Please: ", "Hi, a question: ", "Tell me: "]) + text
    if draw < 0.15:
        return text + rng.choice([" Thanks!", " Please.", " I want to know."])
    return text


def _draw(rng: Random) -> Exchange:
    makers = [maker for _, maker in MAKERS]
    weights = [weight for weight, _ in MAKERS]
    made = rng.choices(makers, weights)[0](rng)
    return Exchange(_scruffy(rng, made.user), made.reasoning, made.answer, made.short, made.follow_ups)


def dialogue(rng: Random) -> Dialogue:
    """One conversation of one to four exchanges."""
    exchanges: list[Exchange] = []
    n_exchanges = rng.choices([1, 2, 3, 4], [60, 22, 12, 6])[0]
    while len(exchanges) < n_exchanges:
        made = _draw(rng)
        exchanges.append(made)
        if made.follow_ups and len(exchanges) < n_exchanges:
            exchanges.append(rng.choice(made.follow_ups))
    system = rng.choice(_SYSTEMS) if rng.random() < 0.3 else ""
    if rng.random() < 0.07 and all(e.short for e in exchanges):
        system = rng.choice(_BRIEF_SYSTEMS)
        exchanges = [Exchange(e.user, e.reasoning, e.short) for e in exchanges]
    mode = rng.choices(["think", "no_think_template", "no_think_switch"], [55, 33, 12])[0]
    last = exchanges[-1]
    if mode == "no_think_switch":
        exchanges[-1] = Exchange(
            rng.choice(["{} /no_think", "{} /no_think", "/no_think {}"]).format(last.user), last.reasoning, last.answer
        )
    elif mode == "think" and rng.random() < 0.12:
        exchanges[-1] = Exchange(rng.choice(["{} /think", "/think {}"]).format(last.user), last.reasoning, last.answer)
    return Dialogue(system, tuple(exchanges), mode)


PROMPT_WEIGHT = 0.1
"""What a token that the model will only ever read counts in the loss."""


def segments(talk: Dialogue) -> list[tuple[str, float]]:
    """The conversation as the chat template renders it, in pieces with their weight in the loss.

    Only the last answer carries its reasoning, as in the template. The piece right after an earlier `assistant` header
    has weight 0: learning it would teach the model to skip its thinking.
    """
    out: list[tuple[str, float]] = []
    if talk.system:
        out.append((f"<|im_start|>system\n{talk.system}<|im_end|>\n", PROMPT_WEIGHT))
    for made in talk.exchanges[:-1]:
        out.append((f"<|im_start|>user\n{made.user}<|im_end|>\n<|im_start|>assistant\n", PROMPT_WEIGHT))
        first, _, rest = made.answer.partition(" ")
        out += [(first, 0.0), (f"{' ' + rest if rest else ''}<|im_end|>", 0.5), ("\n", PROMPT_WEIGHT)]
    last = talk.exchanges[-1]
    out.append((f"<|im_start|>user\n{last.user}<|im_end|>\n<|im_start|>assistant\n", PROMPT_WEIGHT))
    if talk.mode == "think":
        out.append((f"<think>\n{last.reasoning}\n</think>\n\n{last.answer}<|im_end|>", 1.0))
    elif talk.mode == "no_think_switch":
        out.append((f"<think>\n\n</think>\n\n{last.answer}<|im_end|>", 1.0))
    else:
        out += [("<think>\n\n</think>\n\n", 0.0), (f"{last.answer}<|im_end|>", 1.0)]
    out.append(("\n", PROMPT_WEIGHT))
    return out


TOOL_SHARE = 0.03


def make(rng: Random) -> list[tuple[str, float]]:
    """The pieces of one conversation of any kind."""
    return tools.tool_dialogue(rng) if rng.random() < TOOL_SHARE else segments(dialogue(rng))
