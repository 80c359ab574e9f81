"""`python -m qwenctl` is `qwenctl`."""

from qwenctl.cli.main import main

if __name__ == "__main__":
    main()
