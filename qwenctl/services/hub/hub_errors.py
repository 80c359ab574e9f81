"""What went wrong between huggingface_hub and the hub, in one line with a next step, and whether to try again.

Errors are told apart by the names of their classes (huggingface_hub/errors.py), so that nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from quant.shown import named, some
from qwenctl.errors import HubFailed, QwenctlError
from qwenctl.services.hub.short_names import SHORT_NAMES

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_MOST_WAIT_S = 60.0
_LOG_IN = "set HF_TOKEN, or log in: hf auth login"


def hub_error(
    error: Exception,
    repo_id: str,
    revision: str | None,
    endpoint: str,
    *,
    has_token: bool,
    branches: Sequence[str] = (),
) -> QwenctlError:
    """Return what to raise instead of `error`.

    Args:
        error: what huggingface_hub or its HTTP client raised.
        repo_id: what was asked for.
        revision: and where; None: the default branch.
        endpoint: the hub.
        has_token: whether one was sent.
        branches: revisions that there are, where they are known.
    """
    page = f"{endpoint}/{repo_id}"
    kind, status = type(error).__name__, _status(error)
    if kind == "GatedRepoError":
        hint = f"ask for access at {page}" if has_token else f"accept the licence at {page}, then {_LOG_IN}"
        whose = "this token has no access" if has_token else "its files are for those who accept its licence"
        return HubFailed(f"{repo_id} is gated: {whose}", hint)
    if kind == "RevisionNotFoundError":
        hint = f"it has {some(branches, 8)}" if branches else f"see {page}/tree/main"
        return HubFailed(f"{repo_id} has no revision {named(revision or '')}", hint)
    if kind == "DisabledRepoError":
        return HubFailed(f"{repo_id} has been disabled by the hub", f"see {page}")
    if kind == "RepositoryNotFoundError":
        return HubFailed(f"no repository {repo_id} at {endpoint}", _likely(repo_id, has_token=has_token))
    if status == 401:
        return HubFailed(f"{endpoint} does not accept the token", "make a new one, or log in: hf auth login")
    if status == 403:
        return HubFailed(f"{endpoint} refuses {repo_id} to this token", f"see what it may read, and {page}")
    if status == 429:
        hint = "wait a few minutes" if has_token else f"wait a few minutes; with a token more is allowed: {_LOG_IN}"
        return HubFailed(f"{endpoint} says: too many requests", hint)
    if status is not None:
        return HubFailed(f"{endpoint} answers {status} for {repo_id}", "try again later")
    hint = "check the connection and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is here already"
    return HubFailed(f"cannot reach {endpoint}: {_reason(error)}", hint)


def is_worth_another_try(error: Exception) -> bool:
    """Tell whether the same question may well be answered in a while."""
    status = _status(error)
    if status is None:
        return type(error).__name__ not in ("UnsupportedProtocol", "OfflineModeIsEnabled")
    return status in _BUSY and seconds_to_wait(error, 1) <= _MOST_WAIT_S


def seconds_to_wait(error: Exception, n_tried: int) -> float:
    """Return how long to wait before the next try: what the hub says, else longer each time."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = str(headers.get("retry-after", ""))
    return float(said) if said.isascii() and said.isdigit() else 0.5 * 2**n_tried


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _likely(repo_id: str, *, has_token: bool) -> str:
    """Return what was most likely meant. A hub answers alike for what is private and for what is not there."""
    known = [name for entry in SHORT_NAMES.values() for name in (entry.checkpoint, entry.gguf)]
    near = get_close_matches(repo_id, known, 1, cutoff=0.8)
    if near and near[0] != repo_id:
        return f"did you mean {near[0]}?"
    return "if it is private, this token cannot see it" if has_token else f"if it is private, {_LOG_IN}"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
