"""Prints what a pull will do, before it does it, and what came of it: lines on standard error, or JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwenctl.cli.output import Output
from qwenctl.services.hub.listing import Repository
from qwenctl.services.hub.pull import PullResult
from qwenctl.services.hub.pull_plan import PullPlan
from qwenctl.services.hub.resolution import Wanted
from qwenctl.services.remote_conversion import RemotePlan
from qwenctl.services.remote_export import RemoteExportPlan
from qwenctl.services.remote_room import RemoteRoom
from qwenctl.services.split_files import model_name
from qwenctl.settings import Settings
from qwenctl.units import format_bytes, format_seconds

_STATES = {
    "here": "here",
    "unchecked": "here, to be checked",
    "cached": "in the Hugging Face cache",
    "begun": "begun",
    "missing": "",
}


def show_plan(plan: PullPlan, output: Output) -> None:
    """Say what will be fetched where, and what is here already."""
    fetch = format_bytes(plan.n_bytes_to_fetch)
    here = plan.wanted.n_bytes - plan.n_bytes_to_fetch
    _show(
        [
            *_source(plan.wanted),
            ("files", _files(plan)),
            ("to fetch", f"{fetch}; {format_bytes(here)} are here" if here > 0 else fetch),
            ("disk", f"{format_bytes(plan.n_disk_bytes)} needed, {format_bytes(plan.free_bytes)} free"),
            ("goes to", str(plan.target)),
        ],
        plan.wanted,
        output,
    )


def show_conversion_plan(wanted: Wanted, planned: RemotePlan, target: Path, output: Output) -> None:
    """Say what will be fetched, what it will become, and about how long that takes."""
    plan = planned.chosen.plan
    rows = [
        *_source(wanted),
        ("becomes", f"{plan.output.name}, {plan.bits_per_weight:.2f} bits a weight"),
        *_room(planned),
    ]
    if planned.seconds is not None and planned.link_bytes_per_s:
        rate = format_bytes(planned.link_bytes_per_s)
        rows.append(("time", f"about {format_seconds(planned.seconds)}, at {rate}/s"))
    _show([*rows, ("goes to", str(target))], wanted, output)


def show_export_plan(wanted: Wanted, planned: RemoteExportPlan, target: Path, output: Output) -> None:
    """Say what will be fetched, and what it will become."""
    plan = planned.plan
    becomes = f"{plan.kind.name}, {plan.bits_per_weight:.2f} bits a weight"
    sampled = [("samples", f"about {format_bytes(planned.n_bytes_sampled)} more")] if planned.n_bytes_sampled else []
    rows = [*_source(wanted), ("becomes", becomes), *_room(planned), *sampled, ("goes to", str(target))]
    _show(rows, wanted, output)


def plan_document(plan: PullPlan) -> dict[str, Any]:
    """Return the plan for `--dry-run --json`."""
    return {
        **_source_document(plan.wanted),
        "path": str(plan.target),
        "bytes_to_fetch": plan.n_bytes_to_fetch,
        "disk_bytes": plan.n_disk_bytes,
        "free_bytes": plan.free_bytes,
        "files": [
            {
                "path": str(file.path),
                "source": file.remote.path,
                "bytes": file.remote.n_bytes,
                "sha256": file.remote.sha256,
                "state": file.state,
            }
            for file in plan.files
        ],
    }


def conversion_document(wanted: Wanted, planned: RemotePlan, target: Path) -> dict[str, Any]:
    """Return the plan of a conversion for `--dry-run --json`."""
    times = {"link_bytes_per_s": planned.link_bytes_per_s, "seconds": planned.seconds}
    return {**_remote_document(wanted, planned, target), **times}


def export_document(wanted: Wanted, planned: RemoteExportPlan, target: Path) -> dict[str, Any]:
    """Return the plan of an export for `--dry-run --json`."""
    return {**_remote_document(wanted, planned, target), "bytes_sampled": planned.n_bytes_sampled}


def print_dry_run(document: dict[str, Any], target: Path, output: Output) -> None:
    """Print what a pull would do as data: its document, or the path that it would make."""
    if output.json_mode:
        output.data(document)
    else:
        output.line(str(target))


def print_pull(result: PullResult, wanted: Wanted, output: Output) -> None:
    """Print what came of it: the path to standard output, figures to standard error, or all of it as JSON."""
    if output.json_mode:
        output.data({**_source_document(wanted), **asdict(result), "path": str(result.path)})
        return
    parts = [format_bytes(result.n_bytes)]
    if result.n_fetched_bytes:
        rate = format_bytes(result.n_fetched_bytes / max(0.1, result.seconds))
        parts.append(f"{format_bytes(result.n_fetched_bytes)} fetched in {format_seconds(result.seconds)}, {rate}/s")
    if result.n_linked_bytes:
        parts.append(f"{format_bytes(result.n_linked_bytes)} linked from the Hugging Face cache")
    output.note(f"{'; '.join(parts)}; every hash as the hub names it")
    output.line(str(result.path))


def say_how_to_run(target: Path, settings: Settings, output: Output) -> None:
    """Say which command uses the model."""
    is_stored = target.parent.absolute() == settings.models_dir.absolute()
    output.note(f"run it: qwenctl run {model_name(target) if is_stored else target}")


def print_here(path: Path, wanted: Wanted, output: Output) -> None:
    """Say that there was nothing to do."""
    if output.json_mode:
        output.data({**_source_document(wanted), "path": str(path), "n_fetched_bytes": 0})
        return
    output.note("all of it is here already")
    output.line(str(path))


def _show(rows: list[tuple[str, str]], wanted: Wanted, output: Output) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.note(f"{name.ljust(width)}  {value}")
    for note in wanted.notes:
        output.note(note)


def _source(wanted: Wanted) -> list[tuple[str, str]]:
    repository = wanted.repository
    return [
        ("from", f"{repository.page} at {repository.commit[:12]} ({repository.revision})"),
        ("licence", _licence(repository)),
        ("access", _access(repository)),
    ]


def _licence(repository: Repository) -> str:
    if repository.license_name is None:
        return f"not told; see {repository.page}"
    return repository.license_name + (f", {repository.license_link}" if repository.license_link else "")


def _access(repository: Repository) -> str:
    if repository.gated:
        return "gated; your token has access"
    return "private; your token has access" if repository.is_private else "open to everyone"


def _files(plan: PullPlan) -> str:
    words = [f"{len(plan.files)}, {format_bytes(sum(file.remote.n_bytes for file in plan.files))}"]
    for state, text in _STATES.items():
        n_files = sum(file.state == state for file in plan.files)
        if text and n_files:
            words.append(f"{n_files} {text}")
    return "; ".join(words)


def _room(room: RemoteRoom) -> list[tuple[str, str]]:
    before = f"; {format_bytes(room.n_bytes_fetched_before)} are done" if room.n_bytes_fetched_before else ""
    return [
        ("to fetch", format_bytes(room.n_bytes_to_fetch) + before),
        ("disk", f"{format_bytes(room.disk_bytes)} needed, {format_bytes(room.free_bytes)} free"),
    ]


def _remote_document(wanted: Wanted, room: RemoteRoom, target: Path) -> dict[str, Any]:
    return {
        **_source_document(wanted),
        "path": str(target),
        "bytes_to_fetch": room.n_bytes_to_fetch,
        "bytes_fetched_before": room.n_bytes_fetched_before,
        "disk_bytes": room.disk_bytes,
        "free_bytes": room.free_bytes,
        "files": [
            {"source": file.path, "bytes": file.n_bytes, "sha256": file.sha256}
            for file in (*wanted.texts, *wanted.files)
        ],
    }


def _source_document(wanted: Wanted) -> dict[str, Any]:
    repository = wanted.repository
    return {
        "kind": wanted.kind,
        "type": wanted.quant,
        "hub": repository.endpoint,
        "repo": repository.repo_id,
        "revision": repository.revision,
        "commit": repository.commit,
        "license": repository.license_name,
        "license_link": repository.license_link,
        "gated": repository.gated,
        "private": repository.is_private,
    }
