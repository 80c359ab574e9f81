"""The two files of a batch, for tests: lines go in, records come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenctl.services.batch import BatchOptions, BatchSummary, run_batch
from qwenctl.services.generation import ChatModel
from tests.scripted_engine import ScriptedEngine


class Files:
    """The two files of a batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"

    def ask(self, *lines: Any) -> None:
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self.input.write_bytes(b"".join(text + b"\n" for text in texts))

    def run(self, engine: ScriptedEngine | None = None, **options: Any) -> BatchSummary:
        model = ChatModel(engine or ScriptedEngine(n_parallel=4))
        return run_batch(model, self.input, self.output, BatchOptions(**{"parallel": 4, "n_retries": 0, **options}))

    @property
    def records(self) -> list[dict[str, Any]]:
        content = self.output.read_text(encoding="utf-8")
        assert content.endswith("\n") or not content
        return [json.loads(line) for line in content.splitlines()]

    @property
    def names(self) -> list[str]:
        return [record["custom_id"] for record in self.records]

    @property
    def errors(self) -> dict[str, str]:
        return {record["custom_id"]: record["error"]["message"] for record in self.records if record["error"]}

    @property
    def answers(self) -> dict[str, str]:
        found = [record for record in self.records if record["response"]]
        assert len(set(self.names)) == len(self.records)
        return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in found}


def prompts(n_lines: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"id-{n}", "prompt": f"question {n}"} for n in range(first, first + n_lines)]


def counts(summary: BatchSummary) -> tuple[int, int, int, int]:
    return summary.n_done, summary.n_errors, summary.n_skipped, summary.n_skipped_errors
