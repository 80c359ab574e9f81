"""The servers of a batch: all that answer now, which must have the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.errors import InvalidRequest, ServerUnreachable
from qwenctl.services.batch_remote import ServedModel
from qwenctl.services.batch_server import BatchServer
from qwenctl.services.http_pools import HttpPools
from qwenctl.services.server_choice import ServerChoice
from qwenctl.settings import NetworkSettings

_PARALLEL = 8  # where neither user nor server says anything


def find_servers(
    choice: ServerChoice, network: NetworkSettings, parallel: int | None, warn: Callable[[str], None]
) -> list[ServedModel]:
    """Ask each server for its model; those that do not answer are left out, with a warning.

    Args:
        choice: the servers.
        network: proxies and certificates.
        parallel: lines that each gets at the same time; None: as many as it says it computes.
        warn: is told what was left out, a line each.

    Raises:
        ServerUnreachable: none answers.
        InvalidRequest: they have different models, or one refuses the key.
    """
    pools = HttpPools(network, parallel or 64)
    found: list[ServedModel] = []
    failure: ServerUnreachable | None = None
    for address in choice.addresses:
        if choice.key and address.url.startswith("http:") and not address.is_here:
            warn(f"the key goes to {address.url} unencrypted")
        server = BatchServer(address, choice.key, pools, choice.silence_s)
        try:
            model = server.model(choice.model)
        except ServerUnreachable as error:
            failure = error
            warn(f"{error.message}: it gets no lines")
            continue
        found.append(ServedModel(server, model.name, parallel or model.n_parallel or _PARALLEL, model.identity))
    if not found and failure:
        raise failure
    _check_same_model(found)
    return found


def _check_same_model(servers: Sequence[ServedModel]) -> None:
    for one in servers[1:]:
        if one.identity != servers[0].identity:
            what = f"{servers[0].server.name} has {servers[0].model!r} and {one.server.name} has {one.model!r}"
            raise InvalidRequest(
                f"the servers have different models: {what}", "--server-model names the one to ask for"
            )
