"""Gather an importance matrix, saving after every batch, for tests that kill it. Arguments: model, text, output.

Prints a line after each batch and then waits, so that it is killed between two of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from quant.gguf_read import read_gguf
    from qwenctl.moe.offload_options import OffloadOptions
    from qwenctl.services import imatrix_reading
    from qwenctl.services.activation_model import ReadingOptions
    from qwenctl.services.calibration_text import read_texts
    from qwenctl.services.imatrix_reading import ReadProgress
    from qwenctl.services.imatrix_run import ImatrixRequest, gather_imatrix

    imatrix_reading.SAVE_EVERY_S, imatrix_reading._MOST_SAVING_SHARE = 0.0, 1e9

    def show(progress: ReadProgress) -> None:
        sys.stdout.write(f"{progress.n_done}\n")
        sys.stdout.flush()
        if progress.n_done > 0:
            time.sleep(60)

    model, text, out = (Path(one) for one in sys.argv[1:4])
    options = ReadingOptions(64, n_threads=1, offload=OffloadOptions(mode="off"))
    gather_imatrix(read_gguf(model), read_texts([text]), ImatrixRequest(out), options, on_progress=show)


if __name__ == "__main__":
    main()
