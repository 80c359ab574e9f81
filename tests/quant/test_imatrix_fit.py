"""Whether an importance matrix is of a model, and what it lacks for it, by name."""

from __future__ import annotations

import numpy as np
import pytest

from quant.errors import ImatrixMismatch
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_fit import check_fits

SHAPES = {
    "token_embd.weight": (100, 8),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (16, 8),
    "blk.0.ffn_up_exps.weight": (3, 16, 8),
    "blk.0.ffn_down_exps.weight": (3, 8, 16),
    "blk.1.nextn.eh_proj.weight": (8, 16),
    "output.weight": (100, 8),
}


def entry(n_matrices: int, n_columns: int, counts: list[float] | None = None) -> ImatrixEntry:
    sums = np.arange(n_matrices * n_columns, dtype=np.float32).reshape(n_matrices, n_columns)
    return ImatrixEntry(sums, np.array(counts or [2.0] * n_matrices, np.float32))


def whole(**changed: ImatrixEntry) -> Imatrix:
    entries = {
        "blk.0.attn_q.weight": entry(1, 8),
        "blk.0.ffn_up_exps.weight": entry(3, 8),
        "blk.0.ffn_down_exps.weight": entry(3, 16, [4, 0, 0]),
    }
    return Imatrix(entries | {name.replace("__", "."): one for name, one in changed.items()})


def test_what_is_lacking_is_named() -> None:
    fit = check_fits(whole(), SHAPES)
    assert fit.without_statistics == ("blk.1.nextn.eh_proj.weight",)
    assert fit.never_routed == (("blk.0.ffn_down_exps.weight", (1, 2)),)
    assert fit.imatrix.digest == whole().digest


def test_statistics_in_one_piece_are_divided_among_the_experts() -> None:
    fit = check_fits(whole(blk__0__ffn_up_exps__weight=entry(1, 24)), SHAPES)
    divided = fit.imatrix.entries["blk.0.ffn_up_exps.weight"]
    np.testing.assert_array_equal(divided.sums, np.arange(24, dtype=np.float32).reshape(3, 8))
    np.testing.assert_array_equal(divided.counts, [2, 2, 2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blk__0__attn_q__weight": entry(1, 9)}, r"blk.0.attn_q.weight has statistics of 1 x 9 columns, .* 1 x 8"),
        ({"blk__0__ffn_up_exps__weight": entry(4, 8)}, r"blk.0.ffn_up_exps.weight .* 4 x 8 columns, the model 3 x 8"),
        ({"blk__0__ffn_up_exps__weight": entry(1, 8)}, r"blk.0.ffn_up_exps.weight .* 1 x 8 columns, the model 3 x 8"),
        ({"blk__7__attn_q__weight": entry(1, 8)}, r"it has blk.7.attn_q.weight, the model ends at layer 1"),
    ],
)
def test_another_models_is_refused(changed: dict[str, ImatrixEntry], message: str) -> None:
    with pytest.raises(ImatrixMismatch, match=f"imatrix of another model: .*{message}"):
        check_fits(whole(**changed), SHAPES)


def test_one_without_any_of_the_tensors_is_refused() -> None:
    with pytest.raises(ImatrixMismatch, match=r"none of its tensors is in this one, model\.0\.q is not"):
        check_fits(Imatrix({"model.0.q": entry(1, 8)}), SHAPES)


def test_statistics_of_tensors_that_the_model_lacks_are_harmless() -> None:
    assert check_fits(whole(blk__0__attn_other__weight=entry(1, 3)), SHAPES).without_statistics
