"""The short form of the bench of downloads: what it measures in full must hold in small, too."""

from __future__ import annotations

from pathlib import Path

from scripts.pull_bench.corruptions import ON_DISK, ON_THE_WAY, measure_corruptions
from scripts.pull_bench.full_disk import measure_full_disks
from scripts.pull_bench.kills import measure_kills

MIB = 1 << 20


def test_killed_pulls_end_with_the_right_bytes(tmp_path: Path) -> None:
    report = measure_kills(tmp_path, 2, n_parts=2, part_bytes=10 * MIB)
    assert report.n_kills == 2
    assert report.n_right == report.n_pulls >= 1
    assert report.most_twice_bytes <= 64 * MIB


def test_every_kind_of_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    rows = measure_corruptions(tmp_path, 1, 1, 17 * MIB)  # two answers a shard
    assert len(rows) == len(ON_THE_WAY) + len(ON_DISK)
    assert [row for row in rows if not row.n_tried == row.n_detected == row.n_right == 1] == []


def test_a_full_disk_is_said_and_gone_on_with(tmp_path: Path) -> None:
    report = measure_full_disks(tmp_path, 3, 4 * MIB)
    assert report.n_refused == report.n_right == report.n_points == 3
    assert report.most_twice_bytes <= 64 * MIB
