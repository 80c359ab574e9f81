"""A repository of the test hub as the program's own RemoteFiles."""

from __future__ import annotations

from qwenctl.services.hub.listing import listed_file
from qwenctl.services.hub.remote_file import RemoteFile
from tests.hub_server.repository import HubRepository


def remote_files(endpoint: str, repository: HubRepository, *, revision: str = "main") -> list[RemoteFile]:
    """Return all files of a revision, pinned to its commit."""
    sha = repository.refs.get(revision, revision)
    return [
        listed_file(
            endpoint,
            repository.repo_id,
            sha,
            path,
            n_bytes=len(blob.data),
            sha256=blob.sha256 if blob.is_lfs else None,
            git_oid=blob.git_oid,
        )
        for path, blob in repository.commits[sha].items()
    ]
