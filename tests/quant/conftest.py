"""What the tests of formats and codecs share."""

from __future__ import annotations

import pytest

from quant.libggml import LibGgml, load_libggml


@pytest.fixture(scope="session")
def lib() -> LibGgml:
    """Return the library of the installed wheel."""
    return load_libggml()
