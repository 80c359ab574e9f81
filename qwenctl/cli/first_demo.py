"""The first use of the bundled demo: convert it, and say so. Imported when it happens: later runs need no converter."""

from __future__ import annotations

from pathlib import Path

from quant.pipeline import ConversionProgress
from qwenctl.cli.output import Output
from qwenctl.cli.stage_bars import StageBars
from qwenctl.services.demo_conversion import convert_demo
from qwenctl.services.demo_file import DEMO_TYPE
from qwenctl.settings import Settings


def make_demo(settings: Settings, output: Output) -> Path:
    """Return the demo's GGUF file after making it.

    Raises:
        ModelNotFound, QwenctlError, QuantError: see `convert_demo`.
    """
    output.note(f"converting the bundled demo model to {DEMO_TYPE.upper()}, once …")
    with StageBars(output) as bars:

        def show(progress: ConversionProgress) -> None:
            bars.update(progress.stage, progress.n_weights_done, progress.n_weights)

        return convert_demo(settings, show)
