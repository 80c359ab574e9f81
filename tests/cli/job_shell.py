"""The least of a shell: one job in the foreground, which Ctrl-Z stops and the next line typed continues."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def run_as_job(program: Callable[[], None]) -> None:
    """Run `program` as a job of this process, which leads the terminal's session; end with its exit code.

    A process without a shell above it cannot be stopped: its process group counts as orphaned.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        program()
        sys.stdout.flush()
        os._exit(0)
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            os._exit(max(0, os.waitstatus_to_exitcode(status)))
        os.tcsetpgrp(0, os.getpgrp())
        os.write(1, b"[stopped]\r\n")
        os.read(0, 100)
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
