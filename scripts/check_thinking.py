"""Is a thinking budget kept, and does an answer always follow? On the demo, or any model that thinks.

    .venv/bin/python scripts/check_thinking.py                    50 prompts, budgets 0, 1, 16 and 64
    .venv/bin/python scripts/check_thinking.py --model M.gguf --budgets 256,1024 --max-tokens 4096 --json

For each budget N two ways are tried: as a user asks for it (--think-budget N; 0 does not let a hybrid model think), and
as the "answer now" key does it, asked for when N tokens of thinking have come. A reply passes when the model thought at
most N tokens before the sentence that ends its thinking, not counting the rest of a character under way, and the
answer after it holds more than white space. Exit code 1: one did not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import demo_model.exchanges  # noqa: F401 - registers the makers
from demo_model.exchanges.exchange import MAKERS

from qwenctl.core import Finished, Message
from qwenctl.services.demo_conversion import convert_demo
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt
from qwenctl.services.reply import ReplyAssembler, ReplyDone
from qwenctl.services.sample_prompts import SAMPLE_PROMPTS
from qwenctl.services.thinking_mode import EARLY_STOP, ENDING
from qwenctl.settings import Settings

_MOST_BYTES_LEFT = 3  # of a character that has begun, one token each at worst


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one budget in one way."""

    budget: int
    way: str
    n_prompts: int
    n_kept: int  # thought no longer than allowed
    n_answered: int
    most_tokens: int  # of thinking, sentence not counted
    n_overrun: int  # replies that needed more tokens than the budget to finish a character
    ends: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether every reply kept the budget and had an answer."""
        return self.n_kept == self.n_answered == self.n_prompts


def main() -> int:
    """Try every budget in both ways; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled demo without it")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--budgets", default="0,1,16,64")
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="enough for the demo, whatever else the machine does")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    options = EngineOptions(n_ctx=given.max_tokens + 512, n_parallel=given.parallel, n_threads=given.threads)
    path = given.model or convert_demo(Settings.from_environment(os.environ), lambda _: None)
    outcomes = []
    with Engine.open(path, options) as engine:
        model = ChatModel(engine)
        for budget in map(int, given.budgets.split(",")):
            for way in ("budget", "asked"):
                outcomes.append(_try(model, budget, way, _prompts(given.prompts), given.max_tokens))
                if not given.json:
                    print(_line(outcomes[-1]), flush=True)
        model.close()
    if given.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _prompts(n_prompts: int) -> list[str]:
    rng = Random(1)
    makers, weights = [maker for _, maker in MAKERS], [weight for weight, _ in MAKERS]
    drawn = [rng.choices(makers, weights)[0](rng).user for _ in range(max(0, n_prompts - len(SAMPLE_PROMPTS)))]
    return [*SAMPLE_PROMPTS[:n_prompts], *drawn]


def _try(model: ChatModel, budget: int, way: str, prompts: Sequence[str], max_tokens: int) -> Outcome:
    prepared = [
        model.prepare(
            [Message("user", prompt)],
            ChatOptions(
                thinking=None if way == "budget" else True,
                think_budget=budget if way == "budget" else None,
                sampling={"seed": number},
                max_tokens=max_tokens,
            ),
            request_id=str(number),
        )
        for number, prompt in enumerate(prompts)
    ]
    ask_at = budget if way == "asked" else None
    n_sentence = len(model.engine.tokenize(ENDING))
    replies = list(_replies(model, prepared, ask_at))
    # The first two tokens of a block that the model opens itself are the tag and a line break.
    n_opening = 0 if all(one.starts_inside for one in prepared) else len(model.engine.tokenize("<think>\n"))
    thought = [_n_thought(done, n_sentence) for done in replies]
    allowed = budget + (n_opening if way == "asked" else 0)
    return Outcome(
        budget,
        way,
        len(prompts),
        sum(n <= allowed + _MOST_BYTES_LEFT for n in thought),
        sum(bool(done.answer.strip()) for done in replies),
        max(thought),
        sum(n > allowed for n in thought),
        dict(Counter(str(done.thinking_end) for done in replies)),
    )


def _n_thought(done: ReplyDone, n_sentence: int) -> int:
    ended_early = EARLY_STOP.strip() in (done.reasoning or "")
    return done.n_reasoning_tokens - (n_sentence if ended_early else 0)


def _replies(model: ChatModel, prepared: Sequence[PreparedPrompt], ask_at: int | None) -> Iterator[ReplyDone]:
    """Generate all at once. With `ask_at`, the answer is asked for as soon as so many tokens of thinking have come."""
    engine = model.engine
    assemblers = {one.request.request_id: ReplyAssembler(starts_inside=one.starts_inside) for one in prepared}
    for one in prepared:
        engine.submit(one.request)
        if ask_at == 0:
            engine.end_thinking(one.request.request_id)
    while engine.has_work:
        for event in engine.step():
            events = assemblers[event.request_id].take(event)
            if isinstance(event, Finished):
                yield next(one for one in events if isinstance(one, ReplyDone))
            elif ask_at is not None and getattr(event, "n_tokens", 0) >= ask_at:
                engine.end_thinking(event.request_id)


def _line(outcome: Outcome) -> str:
    ends = ", ".join(f"{n} {end}" for end, n in sorted(outcome.ends.items()))
    return (
        f"{outcome.budget:>6} tokens, {outcome.way:<6}  kept {outcome.n_kept}/{outcome.n_prompts}  "
        f"answered {outcome.n_answered}/{outcome.n_prompts}  most {outcome.most_tokens}  ended by: {ends}"
    )


if __name__ == "__main__":
    sys.exit(main())
