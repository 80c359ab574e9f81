"""What is remembered between runs: written whole or not at all, and no harm when it is damaged."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.durable_files import DurableFiles
from qwenctl.moe.hit_curves import HitCurve
from qwenctl.moe.routing_profile import (
    LayerProfile,
    RoutingProfile,
    empty_profile,
    read_profile,
    write_profile,
)

LAYERS = (1, 3)
PROFILE = RoutingProfile(
    (
        LayerProfile(1, (5, 0, 9, 5), (1.5, 0.25, 0.125, 0.0), 12.0),
        LayerProfile(3, (0, 0, 0, 7), (0.5, 0.5, 0.0, 0.0), 12.0),
    )
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.routing"
    write_profile(path, PROFILE)
    assert read_profile(path, LAYERS, 4) == (PROFILE, None)
    assert [found.name for found in path.parent.iterdir()] == ["model.routing"]


def test_the_most_used_experts_come_first_and_none_is_left_out() -> None:
    assert PROFILE.order_by_heat(1) == (2, 0, 3, 1)
    assert PROFILE.order_by_heat(3) == (3, 0, 1, 2)
    with pytest.raises(KeyError):
        PROFILE.order_by_heat(2)


def test_a_missing_file_is_no_fault(tmp_path: Path) -> None:
    assert read_profile(tmp_path / "none", LAYERS, 4) == (empty_profile(LAYERS, 4), None)


@pytest.mark.parametrize(("layers", "n_experts"), [((1, 2), 4), ((1,), 4), (LAYERS, 8)])
def test_a_profile_of_another_shape_is_as_good_as_none(tmp_path: Path, layers: tuple[int, ...], n_experts: int) -> None:
    write_profile(tmp_path / "p", PROFILE)
    profile, reason = read_profile(tmp_path / "p", layers, n_experts)
    assert profile == empty_profile(layers, n_experts)
    assert reason == f"{tmp_path / 'p'}: of a model of another shape"


def _damaged(**changes: object) -> bytes:
    layer = {"layer": 1, "uses": [1, 2, 3, 4], "hits_by_rank": [0.1, 0.1, 0.1, 0.1], "n_samples": 3}
    return json.dumps({"version": 1, "layers": [layer | changes]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        b"null",
        b'{"version":2,"layers":[]}',
        b'{"version":1,"layers":3}',
        b'{"version":1,"layers":[{}]}',
        b"[" * 100_000,
        _damaged()[:-5],
        _damaged(uses=[1, 2, 3]),
        _damaged(uses=[1, 2, 3, -4]),
        _damaged(uses=[1, 2, 3, 4.5]),
        _damaged(uses=[1, 2, 3, True]),
        _damaged(uses=[1, 2, 3, 10**30]),
        _damaged(uses=[1, 2, 3, None]),
        _damaged(uses=[], hits_by_rank=[]),
        _damaged(layer="1"),
        _damaged(hits_by_rank=[0.1, 0.1, 0.1, float("nan")]),
        _damaged(hits_by_rank=[0.1, 0.1, 0.1, float("inf")]),
        _damaged(hits_by_rank=[0.1, 0.1, 0.1, 10**400]),
        _damaged(n_samples=float("nan")),
        _damaged(n_samples=-1),
    ],
)
def test_a_damaged_file_is_as_good_as_none_and_the_reason_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(data)
    profile, reason = read_profile(path, (1,), 4)
    assert profile == empty_profile((1,), 4)
    assert reason is not None
    assert reason.startswith(f"{path}: ")
    assert "\n" not in reason


def test_the_undamaged_form_of_these_is_read(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(_damaged())
    assert read_profile(tmp_path / "p", (1,), 4)[1] is None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flipped") / "p"
    write_profile(path, PROFILE)
    return path


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_no_changed_byte_does_more_than_lose_the_profile(written: Path, place: int, value: int) -> None:
    content = written.read_bytes()
    changed = bytearray(content)
    changed[place % len(content)] = value
    try:
        written.write_bytes(changed)
        profile, reason = read_profile(written, LAYERS, 4)
    finally:
        written.write_bytes(content)
    assert reason is None or profile == empty_profile(LAYERS, 4)
    assert [sorted(profile.order_by_heat(layer)) for layer in LAYERS] == [[0, 1, 2, 3]] * 2


def test_a_file_larger_than_any_profile_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert read_profile(path, LAYERS, 4)[1] == f"{path}: larger than any routing profile"


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    assert read_profile(tmp_path, LAYERS, 4)[1] == f"{tmp_path}: Is a directory"


@pytest.mark.parametrize("step", ["open", "write_at", "sync_data", "rename"])
def test_a_failing_disk_leaves_the_old_profile(tmp_path: Path, step: str) -> None:
    path = tmp_path / "p"
    write_profile(path, PROFILE)
    files = DurableFiles()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    setattr(files, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_profile(path, empty_profile(LAYERS, 4), files)
    assert read_profile(path, LAYERS, 4) == (PROFILE, None)
    assert [found.name for found in tmp_path.iterdir()] == ["p"]


def test_a_profile_of_the_largest_model_stays_small(tmp_path: Path) -> None:
    uses, hits = (123_456,) * 128, (0.123456789,) * 128
    write_profile(tmp_path / "p", RoutingProfile(tuple(LayerProfile(i, uses, hits, 1e5) for i in range(94))))
    assert (tmp_path / "p").stat().st_size < 300_000


def test_a_run_adds_to_what_was_known() -> None:
    curve = HitCurve(4)
    for _ in range(12):
        curve.sample(np.array([4.0, 3.0, 2.0, 1.0]), [3])
    profile = PROFILE.layers[1].followed_by(curve)
    assert profile.uses == (0, 0, 0, 19)
    assert profile.n_samples == pytest.approx(24.0, abs=0.1)
    assert profile.hits_by_rank == pytest.approx((0.25, 0.25, 0.0, 0.5), abs=0.01)


def test_a_long_past_does_not_outweigh_what_is_new() -> None:
    old = LayerProfile(0, (1_000_000, 0), (1.0, 0.0), 1_000_000.0)
    curve = HitCurve(2, half_life_samples=1e9)
    for _ in range(5000):
        curve.sample(np.array([2.0, 1.0]), [1])
    new = old.followed_by(curve)
    assert new.order_by_heat() == (1, 0)
    assert new.n_samples == pytest.approx(9096.0)


def test_a_model_that_never_ran_and_did_nothing_stays_unknown() -> None:
    empty = empty_profile((0,), 4).layers[0]
    assert empty.followed_by(HitCurve(4)) == empty
    assert empty.curve().n_samples == 0.0


def test_a_run_starts_from_the_curve_but_trusts_it_little() -> None:
    curve = LayerProfile(0, (9, 1), (0.75, 0.25), 5000.0).curve()
    assert curve.hits_by_rank() == pytest.approx([0.75, 0.25])
    assert curve.n_samples == 64.0
    assert curve.uses == [0, 0]
