"""What went wrong between huggingface_hub and the hub, in one line with a next step, and whether to try again.

Errors are told apart by the names of their classes (huggingface_hub/errors.py), so that nothing is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from quant.shown import named, some
from qwenctl.errors import HubAccessRefused, HubUnreachable, ModelNotFound, QwenctlError
from qwenctl.services.hub.backoff import asked_delay_s
from qwenctl.services.hub.short_names import SHORT_NAMES

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
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
    asked = _Asked(repo_id, revision, endpoint, has_token, tuple(branches))
    describe = _KINDS.get(type(error).__name__) or _STATUSES.get(_status(error) or 0)
    if describe is not None:
        return describe(asked)
    if (status := _status(error)) is not None:
        return HubUnreachable(f"{endpoint} answers {status} for {repo_id}", "try again later")
    hint = "check the connection and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is here already"
    return HubUnreachable(f"cannot reach {endpoint}: {_reason(error)}", hint)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked of whom."""

    repo_id: str
    revision: str | None
    endpoint: str
    has_token: bool
    branches: tuple[str, ...]

    @property
    def page(self) -> str:
        return f"{self.endpoint}/{self.repo_id}"


def gated(repo_id: str, page: str, *, has_token: bool) -> HubAccessRefused:
    """Return the error for a repository whose licence has to be accepted first."""
    hint = f"ask for access at {page}" if has_token else f"accept the licence at {page}, then {_LOG_IN}"
    whose = "this token has no access" if has_token else "its files are for those who accept its licence"
    return HubAccessRefused(f"{repo_id} is gated: {whose}", hint)


def disabled(repo_id: str, page: str) -> HubAccessRefused:
    """Return the error for a repository that the hub has closed."""
    return HubAccessRefused(f"{repo_id} has been disabled by the hub", f"see {page}")


def _no_revision(asked: _Asked) -> QwenctlError:
    hint = f"it has {some(asked.branches, 8)}" if asked.branches else f"see {asked.page}/tree/main"
    return ModelNotFound(f"{asked.repo_id} has no revision {named(asked.revision or '')}", hint)


def _no_repository(asked: _Asked) -> QwenctlError:
    hint = _likely(asked.repo_id, has_token=asked.has_token)
    return ModelNotFound(f"no repository {asked.repo_id} at {asked.endpoint}", hint)


def _bad_token(asked: _Asked) -> QwenctlError:
    return HubAccessRefused(f"{asked.endpoint} does not accept the token", "make a new one, or log in: hf auth login")


def _forbidden(asked: _Asked) -> QwenctlError:
    message = f"{asked.endpoint} refuses {asked.repo_id} to this token"
    return HubAccessRefused(message, f"see what the token may read, and {asked.page}")


def _too_many(asked: _Asked) -> QwenctlError:
    hint = "wait a few minutes" + ("" if asked.has_token else f"; with a token more is allowed: {_LOG_IN}")
    return HubUnreachable(f"{asked.endpoint} says: too many requests", hint)


_KINDS: Mapping[str, Callable[[_Asked], QwenctlError]] = {
    "GatedRepoError": lambda asked: gated(asked.repo_id, asked.page, has_token=asked.has_token),
    "DisabledRepoError": lambda asked: disabled(asked.repo_id, asked.page),
    "RevisionNotFoundError": _no_revision,
    "RepositoryNotFoundError": _no_repository,
}
_STATUSES: Mapping[int, Callable[[_Asked], QwenctlError]] = {401: _bad_token, 403: _forbidden, 429: _too_many}


def is_passing(error: Exception) -> bool:
    """Tell whether the same question may well be answered in a while: the hub is busy, or the line is bad."""
    status = _status(error)
    if status is None:
        return type(error).__name__ not in ("UnsupportedProtocol", "OfflineModeIsEnabled")
    return status in _BUSY


def asked_wait_s(error: Exception) -> float | None:
    """Return the seconds that the hub asks us to stay away, None if it does not."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else asked_delay_s(headers, time.time())


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
