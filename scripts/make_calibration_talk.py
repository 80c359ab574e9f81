"""Write qwenctl/calibration/conversations-simple.jsonl: short conversations from the makers that taught the demo model.

    python scripts/make_calibration_talk.py

The same file each time. Conversations that share a question with the held-out ones (demo_model/reference.py), by which
engines and quantizations are judged, are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from demo_model.dialogues import Dialogue, dialogue, make

N_CONVERSATIONS = 150
SEED = 20240229
OUTPUT = Path(__file__).resolve().parent.parent / "qwenctl" / "calibration" / "conversations-simple.jsonl"

# As in demo_model/reference.py, which needs torch to be imported.
HELD_OUT_SEED, N_HELD_OUT = 987654321, 36
_USER, _END = "<|im_start|>user\n", "<|im_end|>"
HELD_OUT_QUESTIONS = {
    "What is the capital of France?",
    "Who are you?",
    "What is 7 + 5?",
    "Count from 1 to 5.",
    "What is the opposite of hot?",
    "What is GGUF?",
}


def messages(talk: Dialogue) -> list[dict[str, str]]:
    """The conversation as chat templates take it; only the last answer carries its reasoning, if it has any."""
    said = [{"role": "system", "content": talk.system}] if talk.system else []
    for made in talk.exchanges:
        said += [{"role": "user", "content": made.user}, {"role": "assistant", "content": made.answer}]
    if talk.mode == "think":
        said[-1]["reasoning_content"] = talk.exchanges[-1].reasoning
    return said


def main() -> None:
    """Write the file."""
    held_out = Random(HELD_OUT_SEED)
    texts = ["".join(text for text, _ in make(held_out)) for _ in range(N_HELD_OUT)]
    unseen = {turn.split(_END)[0] for text in texts for turn in text.split(_USER)[1:]} | HELD_OUT_QUESTIONS
    rng = Random(SEED)
    lines: list[str] = []
    while len(lines) < N_CONVERSATIONS:
        talk = dialogue(rng)
        if not unseen & {made.user for made in talk.exchanges}:
            lines.append(json.dumps({"messages": messages(talk)}, ensure_ascii=False) + "\n")
    OUTPUT.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
