"""`qwenctl` and `python -m qwenctl`: where the process starts.

Imports next to nothing, so that a Ctrl-C while the program is still being imported ends it as any other does.
"""

import sys
from importlib import import_module


def main() -> None:
    """Run the program on the process's own arguments and end the process."""
    try:
        import_module("qwenctl.cli.main").main()  # ends in sys.exit
    except KeyboardInterrupt:
        if sys.stderr is not None:  # it is where the descriptor was closed
            sys.stderr.write("interrupted\n")
        sys.exit(130)  # ExitCode.INTERRUPTED, whose module may be the one that was being imported


if __name__ == "__main__":
    main()
