"""What a hub says of a repository: asked through huggingface_hub, which knows the API, the tokens and their renewal.

The only file that imports it, and only when something is asked. It reads its variables once, at import, into its
constants: there it is told, before its first request, to send no telemetry and no token but the one that is handed
over; all else is passed as arguments. Fetching files is not its work here: it does not resume them, and checks their
size only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import count
from typing import Any, TypeVar

from qwenctl import __version__
from qwenctl.errors import HubAccessRefused, HubUnreachable, QwenctlError
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.hub_errors import asked_wait_s, disabled, gated, hub_error, is_passing
from qwenctl.services.hub.listing import Repository, listed_file
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.settings import HubSettings

_CONSTANTS = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DISABLE_UPDATE_CHECK")
_PATIENCE = RetryPolicy(n_attempts=5, first_s=1.0, most_s=15.0, most_asked_s=60.0)
_TIMEOUT_S = 30.0

_Answer = TypeVar("_Answer")


class HubClient:
    """Asks one hub.

    Args:
        settings: which, and with which token.
        sleep: waits between tries; takes seconds.

    Raises:
        HubUnreachable: `HF_HUB_OFFLINE` is set.
    """

    def __init__(self, settings: HubSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        if settings.offline:
            raise HubUnreachable(
                "HF_HUB_OFFLINE is set, so nothing is asked of the hub", "unset it, or name a file here"
            )
        constants: Any = import_module("huggingface_hub.constants")
        for name in _CONSTANTS:
            setattr(constants, name, True)
        self._hub: Any = import_module("huggingface_hub")
        self._errors: Any = import_module("huggingface_hub.errors")
        self._http_error: type[Exception] = import_module("httpx2").TransportError
        self.endpoint = settings.endpoint
        self.token: str | None = None
        if settings.may_send_token:
            self.token = settings.token or self._stored_token()
        self._sleep = sleep
        self._chance = random.Random()  # noqa: S311 (spreads requests, hides nothing)
        self._api: Any = self._hub.HfApi(
            endpoint=settings.endpoint,
            token=self.token or False,
            library_name="qwenctl",
            library_version=__version__,
        )

    def repository(self, repo_id: str, revision: str | None = None) -> Repository:
        """Return what is in a repository at a revision, pinned to the commit that it means now.

        Raises:
            ModelNotFound: no such repository or revision.
            HubAccessRefused: gated, disabled, or not for this token; says what to do.
            HubUnreachable: the hub does not answer, or lists nonsense.
        """
        info = self._ask(
            repo_id, revision, lambda: self._api.model_info(repo_id, revision=revision, timeout=_TIMEOUT_S)
        )
        commit = str(info.sha or "")
        entries = self._ask(
            repo_id, revision, lambda: list(self._api.list_repo_tree(repo_id, recursive=True, revision=commit))
        )
        card = dict(info.card_data.to_dict()) if info.card_data else {}
        try:
            repository = Repository(
                endpoint=self.endpoint,
                repo_id=repo_id,
                commit=commit,
                files=self._files(repo_id, commit, entries),
                revision=revision or "main",
                license_name=_first(card.get("license_name"), card.get("license")),
                license_link=_first(card.get("license_link")),
                gated=str(info.gated) if info.gated else None,
                is_private=bool(info.private),
                base_models=_texts(card.get("base_model")),
            )
        except ValueError as error:
            raise HubUnreachable(f"{repo_id}: {error}", f"is {self.endpoint} a hub?") from error
        self._check_access(repository, is_disabled=bool(info.disabled))
        return repository

    def _files(self, repo_id: str, commit: str, entries: Iterable[Any]) -> tuple[RemoteFile, ...]:
        return tuple(
            listed_file(
                self.endpoint,
                repo_id,
                commit,
                entry.path,
                n_bytes=int(entry.size),
                sha256=entry.lfs.sha256 if entry.lfs else None,
                git_oid=entry.blob_id,
            )
            for entry in entries
            if hasattr(entry, "blob_id")  # folders have none
        )

    def _stored_token(self) -> str | None:
        """Return the token of `hf auth login`, renewed where it had to be."""
        try:
            token: str | None = self._hub.get_token()
        except (self._errors.OIDCError, self._errors.DeviceCodeError, self._errors.HfHubHTTPError, OSError) as error:
            raise HubAccessRefused(
                f"the stored token cannot be used: {error}", "log in again: hf auth login"
            ) from error
        return token

    def _check_access(self, repository: Repository, *, is_disabled: bool) -> None:
        """Refuse before the first byte what the hub would refuse with the first file."""
        name, page = repository.repo_id, repository.page
        if is_disabled:
            raise disabled(name, page)
        if repository.gated is None:
            return
        if self.token is None:
            raise gated(name, page, has_token=False)
        self._ask(name, repository.revision, lambda: self._api.auth_check(name))

    def _ask(self, repo_id: str, revision: str | None, question: Callable[[], _Answer]) -> _Answer:
        """Ask; again after a while where the hub is busy or the line is bad."""
        for n_failures in count(1):
            try:
                return question()
            except (self._errors.HfHubHTTPError, self._http_error, ConnectionError) as error:
                delay_s = _PATIENCE.delay_s(n_failures, asked_wait_s(error), self._chance)
                if delay_s is None or not is_passing(error):
                    raise self._explain(error, repo_id, revision) from error
                self._sleep(delay_s)
            except (self._errors.HFValidationError, ValueError, KeyError, TypeError) as error:
                raise HubUnreachable(
                    f"{self.endpoint} did not answer as a hub does", "is HF_ENDPOINT right?"
                ) from error
        raise AssertionError("unreachable")

    def _explain(self, error: Exception, repo_id: str, revision: str | None) -> QwenctlError:
        branches = self._branches(repo_id) if type(error).__name__ == "RevisionNotFoundError" else ()
        has_token = self.token is not None
        return hub_error(error, repo_id, revision, self.endpoint, has_token=has_token, branches=branches)

    def _branches(self, repo_id: str) -> tuple[str, ...]:
        """Return the names of branches and tags, as a courtesy: none where the hub does not tell."""
        try:
            refs = self._api.list_repo_refs(repo_id)
            return tuple(ref.name for ref in (*refs.branches, *refs.tags))
        except (self._errors.HfHubHTTPError, self._http_error, ConnectionError, ValueError, KeyError):
            return ()


def _first(*values: Any) -> str | None:
    """Return the first value that says something; a list's first."""
    return next((texts[0] for value in values if (texts := _texts(value))), None)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
