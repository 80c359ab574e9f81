"""What a user types to name a model on a hub, taken apart. Pure: no network, no files.

Qwen/Qwen3-8B-GGUF:q4_k_m@main              repository, type, revision
unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q6_K.gguf    a loose file, or a folder, of a repository
hf://Qwen/Qwen3-8B@refs/pr/1                as huggingface_hub writes it
https://huggingface.co/Qwen/Qwen3-8B-GGUF/resolve/main/Qwen3-8B-Q8_0.gguf     also /blob/, /tree/; any hub's host
qwen3:8b, qwen3:8b:q6_k                     a short name (short_names.py), and a type
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import unquote, urlsplit

from quant.shown import named, some
from qwenctl.errors import InvalidRequest
from qwenctl.services.hub.short_names import FAMILIES, SHORT_NAMES, ShortName, of_family

PUBLIC_ENDPOINT = "https://huggingface.co"
_PUBLIC_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_OTHER_KINDS = frozenset({"datasets", "spaces", "buckets", "kernels"})
_PAGES = frozenset({"resolve", "blob", "tree", "raw"})

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"  # user or repository: no dot or dash at either end
_REPO_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REPO_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:/(?P<path>[^:@]+))?(?::(?P<quant>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_HF_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>refs/(?:pr|convert)/\w+|[^/@]+))?(?:/(?P<path>.+))?", re.ASCII
)
_SHORT = re.compile(r"(?P<name>[\w.-]+:[\w.-]+)(?::(?P<quant>[\w.+-]+))?", re.ASCII)
_GLUED = re.compile(r"(?P<name>.+?)[-:](?P<quant>(?:ud-)?i?q[2-8]_\w+|mxfp4\w*|bf16|f16|f32)")
_EXAMPLES = "qwen3:8b, Qwen/Qwen3-8B-GGUF:q4_k_m, or a file's address on the hub"


@dataclass(frozen=True, slots=True)
class RepoName:
    """A repository; of it all, or what lies under `path`, at `revision` (None: the default branch).

    Raises:
        InvalidRequest: a name that no repository can have.
    """

    repo_id: str
    quant: str | None = None  # as typed
    revision: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo_id) or "--" in self.repo_id or ".." in self.repo_id:
            raise InvalidRequest(f"{named(self.repo_id)} is no repository's name", f"write {_EXAMPLES}")
        if any(part in ("", ".", "..") for part in (self.path or "x").split("/")):
            raise InvalidRequest(f"{named(self.path or '')} is no path in a repository", f"write {_EXAMPLES}")


@dataclass(frozen=True, slots=True)
class FamilyName:
    """A short name and, where one was typed, a type."""

    entry: ShortName
    quant: str | None = None


def parse_name(text: str, endpoint: str = PUBLIC_ENDPOINT) -> RepoName | FamilyName:
    """Return what `text` names.

    Args:
        text: as typed.
        endpoint: address of the hub in use; its files' addresses are understood.

    Raises:
        InvalidRequest: nothing of the kind; the hint says what is near, or what names look like.
    """
    typed = text.strip()
    if typed.startswith("hf://"):
        return _parse_hf(typed)
    if "://" in typed or typed.split("/")[0].lower() in _PUBLIC_HOSTS:
        return _parse_url(typed, endpoint)
    if typed.startswith(("/", "./", "../", "~")):
        raise InvalidRequest(f"{named(typed)} is a path on this machine, not a name on a hub", f"write {_EXAMPLES}")
    if "/" not in typed:
        return _parse_short(typed)
    match = _REPO_NAME.fullmatch(typed)
    if match is None:
        raise InvalidRequest(f"{named(typed)} does not name a model", f"write {_EXAMPLES}")
    path = (match["path"] or "").strip("/") or None
    if path and match["quant"]:
        raise InvalidRequest(f"{named(typed)} names a file and a type", "leave one of them out")
    return RepoName(match["repo"], match["quant"], match["revision"], path)


def _parse_hf(typed: str) -> RepoName:
    rest = typed.removeprefix("hf://").removeprefix("models/")
    _refuse_other_kinds(typed, rest)
    match = _HF_NAME.fullmatch(rest)
    if match is None:
        raise InvalidRequest(f"{named(typed)} does not name a model", "write hf://user/repo@revision/file.gguf")
    revision = unquote(match["revision"]) if match["revision"] else None
    return RepoName(match["repo"], None, revision, (match["path"] or "").strip("/") or None)


def _parse_url(typed: str, endpoint: str) -> RepoName:
    """Read an address: HOST/user/repo, followed by nothing, by `:type` as other programs write it, or by a page."""
    try:
        url = urlsplit(typed if "://" in typed else f"https://{typed}")
    except ValueError:
        raise InvalidRequest(f"{named(typed)} is no address", f"write {_EXAMPLES}") from None
    base = urlsplit(endpoint)
    path = url.path
    if url.scheme not in ("http", "https") or (url.netloc.lower() not in _PUBLIC_HOSTS | {base.netloc.lower()}):
        hint = f"set HF_ENDPOINT={url.scheme}://{url.netloc} if that is a hub"
        raise InvalidRequest(f"{named(url.netloc or typed)} is not the hub in use, {endpoint}", hint)
    if url.netloc.lower() == base.netloc.lower():
        path = path.removeprefix(base.path.rstrip("/"))
    rest = path.strip("/").removeprefix("models/")
    _refuse_other_kinds(typed, rest)
    parts = [unquote(part) for part in rest.split("/")]
    if len(parts) == 2:
        return _whole_repo(typed, "/".join(parts))
    if len(parts) >= 4 and parts[2] in _PAGES:
        revision, inside = _split_revision(rest.split("/")[3:])
        return RepoName("/".join(parts[:2]), None, revision, inside)
    hint = f"write {endpoint}/user/repo/resolve/main/file.gguf"
    raise InvalidRequest(f"{named(typed)} is no address of a repository or a file", hint)


def _whole_repo(typed: str, rest: str) -> RepoName:
    match = _REPO_NAME.fullmatch(rest)
    if match is None:
        raise InvalidRequest(f"{named(typed)} is no address of a repository", f"write {_EXAMPLES}")
    return RepoName(match["repo"], match["quant"], match["revision"])


def _split_revision(parts: list[str]) -> tuple[str, str | None]:
    """Return revision and path of what follows /resolve/; a revision's own slashes are escaped, but for refs/pr/1."""
    n_parts = 3 if parts[0] == "refs" and len(parts) >= 3 else 1
    inside = "/".join(unquote(part) for part in parts[n_parts:])
    return unquote("/".join(parts[:n_parts])), inside or None


def _refuse_other_kinds(typed: str, rest: str) -> None:
    kind = rest.split("/", maxsplit=1)[0]
    if kind in _OTHER_KINDS:
        raise InvalidRequest(f"{named(typed)} is one of the hub's {kind}, not a model", f"write {_EXAMPLES}")


def _parse_short(typed: str) -> FamilyName:
    lowered = typed.lower()
    match = _SHORT.fullmatch(lowered)
    entry = SHORT_NAMES.get(match["name"]) if match else None
    if match is not None and entry is not None:
        return FamilyName(entry, match["quant"])
    if lowered in FAMILIES:
        raise InvalidRequest(f"{lowered} comes in several sizes", f"choose one: {', '.join(of_family(lowered))}")
    raise InvalidRequest(f"no short name {named(typed)}", _nearest(lowered))


def _nearest(lowered: str) -> str:
    """Return a hint: the names that were most likely meant, or what there is."""
    glued = _GLUED.fullmatch(lowered)
    wanted, quant = (glued["name"], f":{glued['quant']}") if glued else (lowered, "")
    family, _, size = wanted.partition(":")
    begun = [name for name in of_family(family) if size and name.startswith(f"{wanted}-")]
    known = {name.replace(":", "-"): name for name in SHORT_NAMES}
    near = [wanted] if wanted in SHORT_NAMES else begun
    near = near or [known[name] for name in get_close_matches(wanted.replace(":", "-"), known, 3)]
    if near:
        return f"did you mean {' or '.join(name + quant for name in near[:4])}?"
    return f"write {_EXAMPLES}; short names begin with {some(FAMILIES, 8)}"
