"""The hash by which a hub names a file's contents, computed piece by piece.

LFS files have a SHA-256. Others are known as Git blobs: SHA-1 (or SHA-256 in newer repositories) of "blob <size>", a
zero byte and the contents; https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
"""

from __future__ import annotations

import hashlib

from qwenctl.services.hub.remote_file import RemoteFile


class ContentHash:
    """Takes all the bytes of a file in order.

    Args:
        remote: says which hash is known. If none is, whatever comes fits.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self.expected = remote.sha256 or remote.git_oid
        self.kind = "SHA-256" if remote.sha256 else "Git hash"
        is_sha1 = remote.sha256 is None and len(remote.git_oid or "") == 40
        self._hash = hashlib.sha1(usedforsecurity=False) if is_sha1 else hashlib.sha256()
        if not remote.sha256:
            self._hash.update(b"blob %d\0" % remote.n_bytes)

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self.expected:
            self._hash.update(data)

    @property
    def found(self) -> str:
        """The hash of what was taken, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def fits(self) -> bool:
        """Tell whether what was taken is the file."""
        return self.expected is None or self.found == self.expected
