"""One OpenAI-compatible server that lines are sent to: its address, what it says of itself, and its answers.

The key goes to this address and nowhere else: redirects are not followed, and no message holds it. What an answer means
is batch_verdict.py's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.util import Timeout

from qwenctl import __version__
from qwenctl.errors import InvalidRequest, ServerUnreachable
from qwenctl.services.api.body_fields import BadRequest, parse_json
from qwenctl.services.http_pools import HttpPools
from qwenctl.services.server_choice import ServerAddress

_LOOK_S = 10.0  # a server says within this time what it is
_MOST_ANSWER_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class NotReached(Exception):
    """The server did not take the request: the connection was refused, or could not be made."""


class NotAnswered(Exception):
    """The server took the request, and the answer did not come, or not all of it."""


@dataclass(frozen=True, slots=True)
class ServerModel:
    """What a server says of the model that it answers with."""

    name: str
    n_parallel: int | None  # requests that it computes at the same time
    identity: str  # the same for the same model, wherever it is served


class BatchServer:
    """Asks one server. Safe from several threads at once.

    Args:
        address: where it is.
        key: its secret, if it wants one.
        pools: connections.
        silence_s: how long nothing may come for an answer that is being computed.
    """

    def __init__(self, address: ServerAddress, key: str | None, pools: HttpPools, silence_s: float) -> None:
        self.name = address.url
        self._address, self._pools, self._silence_s = address, pools, silence_s
        self._headers = {"Content-Type": "application/json", "User-Agent": f"qwenctl/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, url: str, body: bytes) -> ServerAnswer:
        """Return the answer to `body` at `url`, such as "/v1/chat/completions".

        Raises:
            NotReached, NotAnswered: there is none.
        """
        return self._request("POST", url, body, self._silence_s)

    def model(self, wanted: str | None) -> ServerModel:
        """Return what the server has: the model `wanted`, or its first one.

        Raises:
            ServerUnreachable: it does not answer, or not as such servers do.
            InvalidRequest: it refuses the key.
        """
        try:
            answer = self._request("GET", "/v1/models", None, _LOOK_S)
        except (NotReached, NotAnswered) as error:
            raise ServerUnreachable(f"{self.name}: {error}", "is a server running there?") from error
        if answer.status in (401, 403):
            raise InvalidRequest(
                f"{self.name} refuses the key", "--api-key, or QWENCTL_API_KEY, takes the server's key"
            )
        entry = _entry(answer, wanted)
        if entry is None:
            raise ServerUnreachable(f"{self.name}/v1/models lists no model", "is it an OpenAI-compatible server?")
        name, meta = str(entry["id"]), entry.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        size = [meta[member] for member in ("n_params", "size") if isinstance(meta.get(member), int)]  # llama.cpp's
        n_parallel = meta.get("n_parallel")
        if not isinstance(n_parallel, int):
            n_parallel = self._llama_slots()
        return ServerModel(name, n_parallel, json.dumps([name, *size]))

    def _llama_slots(self) -> int | None:
        """What llama.cpp's server says."""
        try:
            answer = self._request("GET", "/props", None, _LOOK_S)
            props = parse_json(answer.data)
        except (NotReached, NotAnswered, BadRequest):
            return None
        n_slots = props.get("total_slots") if isinstance(props, dict) else None
        return n_slots if isinstance(n_slots, int) and n_slots > 0 else None

    def _request(self, method: str, url: str, body: bytes | None, silence_s: float) -> ServerAnswer:
        url = self._address.url + url
        try:
            response = self._pools.pool(url, direct=self._address.is_here).request(
                method,
                url,
                body=body,
                headers=self._headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=Timeout(connect=_LOOK_S, read=silence_s),
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise NotReached("no connection") from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise NotAnswered(f"nothing came for {silence_s:g} s") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotAnswered(f"the connection broke ({type(error).__name__})") from error
        try:
            data = response.read(_MOST_ANSWER_BYTES)
            if response.read(1):
                raise NotAnswered(f"the answer is longer than {_MOST_ANSWER_BYTES >> 20} MiB")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotAnswered("the answer was cut off") from error
        finally:
            response.release_conn()
        return ServerAnswer(response.status, response.headers, data)


def _entry(answer: ServerAnswer, wanted: str | None) -> Mapping[str, Any] | None:
    """The model's entry in the list; one that is not listed may be there all the same if it was asked for by name."""
    try:
        listed = parse_json(answer.data)
    except BadRequest:
        listed = None
    data = listed.get("data") if isinstance(listed, dict) else None
    if answer.status != 200 or not isinstance(data, list):
        return None
    entries = [one for one in data if isinstance(one, dict) and isinstance(one.get("id"), str)]
    if wanted is not None:
        return next((one for one in entries if one["id"] == wanted), {"id": wanted})
    return entries[0] if entries else None
