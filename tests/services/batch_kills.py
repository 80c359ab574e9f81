"""Kill a batch again and again (SIGKILL), and check what it must keep: every line answered exactly once, in its order,
and nothing computed again that was finished before a kill. For the suite, and for scripts/kill_batch.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("killable_batch.py")
_TORN = b'{"id": "batch_req_00", "cus'  # what a power failure might leave


@dataclass(frozen=True, slots=True)
class KillPlan:
    """What is killed how often."""

    n_kills: int
    order: str
    engine: str  # "scripted", "none", or a GGUF file
    server: str | None = None
    lines_per_kill: int = 20
    seconds_per_step: float = 0.001


@dataclass(slots=True)
class KillReport:
    """What came of it."""

    n_lines: int
    n_kills: int = 0  # that met a running batch
    n_in_journal: int = 0  # records that waited for their turn, at all kills together
    n_begun: int = 0  # lines, at all runs together
    n_finished_before: int = 0  # records that were there at the last kill
    n_redone: int = 0  # lines that were begun again although they were finished
    n_changed: int = 0  # records that were there at a kill and are not in the result as they were
    n_missing: int = 0
    n_twice: int = 0
    in_order: bool = True

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, repeated or changed."""
        return not (self.n_redone or self.n_changed or self.n_missing or self.n_twice) and self.in_order


class BatchKiller:
    """Carries a plan out in a folder.

    Args:
        folder: an empty one.
        plan: what to do.
        begun: returns the numbers of all lines that were begun so far, where a server computes them.
    """

    def __init__(self, folder: Path, plan: KillPlan, begun: Callable[[], list[int]] | None = None) -> None:
        self.input, self.output, self.log = (folder / name for name in ("in.jsonl", "out.jsonl", "begun.txt"))
        self.pending = folder / "out.jsonl.pending"
        self.plan = plan
        self._begun = begun or self._logged
        self._chance = random.Random(plan.n_kills)
        n_lines = plan.n_kills * plan.lines_per_kill
        self._report = KillReport(n_lines)
        words = [" ".join(f"w{n}" for n in range(self._chance.randint(1, 12))) for _ in range(n_lines)]
        texts = [json.dumps({"custom_id": f"id-{n}", "prompt": f"{n} {text}"}) for n, text in enumerate(words, 1)]
        self.input.write_text("".join(f"{text}\n" for text in texts))

    def run(self) -> KillReport:
        """Kill, let a last run end, and look at the result."""
        kept: set[bytes] = set()
        for number in range(self.plan.n_kills):
            kept |= self._kill(number)
        finished = self._finished()
        self._report.n_finished_before = len(finished)
        n_begun = len(self._begun())
        subprocess.run(self._command(), check=True, capture_output=True)
        self._note_redone(finished, n_begun)
        self._look_at_result(kept)
        return self._report

    def _kill(self, number: int) -> set[bytes]:
        """Run and kill once; return the records that were finished then."""
        finished, n_begun, report = self._finished(), len(self._begun()), self._report
        aim = self.plan.lines_per_kill * number + self._chance.randint(0, self.plan.lines_per_kill)
        child = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            while child.poll() is None and self._n_records() < aim:
                time.sleep(0.001)
            time.sleep(self._chance.uniform(0, 0.005))
            child.send_signal(signal.SIGKILL)
        finally:
            errors = child.communicate()[1]
        assert child.returncode in (0, -signal.SIGKILL), errors.decode()
        report.n_kills += child.returncode != 0
        self._note_redone(finished, n_begun)
        records = {line for _, line in self._records()}
        if self.pending.exists():
            report.n_in_journal += self.pending.read_bytes().count(b"\n")
        for path in (self.output, self.pending):
            if path.exists() and self._chance.random() < 0.3:
                self._tear(path)
        return records

    def _tear(self, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1] + _TORN)

    def _note_redone(self, finished: set[int], n_begun: int) -> None:
        begun = self._begun()
        self._report.n_redone += sum(line in finished for line in begun[n_begun:])
        self._report.n_begun = len(begun)

    def _look_at_result(self, kept: set[bytes]) -> None:
        report, lines = self._report, self.output.read_bytes().splitlines(keepends=True)
        names = [json.loads(line)["custom_id"] for line in lines]
        counted = Counter(names)
        report.n_missing = sum(f"id-{n}" not in counted for n in range(1, report.n_lines + 1))
        report.n_twice = sum(count - 1 for count in counted.values())
        report.n_changed = len(kept - set(lines))
        report.in_order = self.plan.order != "input" or names == [f"id-{n}" for n in range(1, report.n_lines + 1)]
        assert not self.pending.exists()

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """The whole records that are there, with the numbers of their lines."""
        for path in (self.output, self.pending):
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines(keepends=True):
                    if line.endswith(b"\n"):
                        yield int(json.loads(line)["custom_id"].removeprefix("id-")), line

    def _finished(self) -> set[int]:
        return {number for number, _ in self._records()}

    def _n_records(self) -> int:
        n_records = 0
        for path in (self.output, self.pending):
            with contextlib.suppress(FileNotFoundError):
                n_records += path.read_bytes().count(b"\n")
        return n_records

    def _logged(self) -> list[int]:
        try:
            return [int(line) for line in self.log.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _command(self) -> list[str]:
        wanted: dict[str, Any] = {"input": str(self.input), "output": str(self.output), "begun": str(self.log)}
        wanted |= {"order": self.plan.order, "engine": self.plan.engine, "server": self.plan.server}
        wanted["seconds_per_step"] = self.plan.seconds_per_step
        return [sys.executable, str(SCRIPT), json.dumps(wanted)]
