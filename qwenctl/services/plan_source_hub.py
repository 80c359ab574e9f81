"""The model on a hub that a plan is for: its headers and config, from the hub's cache or by range requests.

Imported only for names that mean nothing here: no other part of planning needs a network.
"""

from __future__ import annotations

from qwenctl.errors import HubUnreachable
from qwenctl.services.hub.hf_cache import cached_file
from qwenctl.services.hub.hub_access import Hub
from qwenctl.services.hub.model_names import parse_name
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.resolution import with_options
from qwenctl.services.plan_source import PlanSource, remote_source
from qwenctl.settings import Settings


def source_on_hub(name: str, quant: str | None, settings: Settings) -> PlanSource:
    """Return the model that `name` means on the hub.

    Args:
        name: as typed.
        quant: that was asked for.
        settings: of the program.

    Raises: as `plan_source.find_source`.
    """
    parsed = with_options(parse_name(name, settings.hub.endpoint), quant, None)
    with Hub(settings) as hub:

        def read(remote: RemoteFile, offset_bytes: int, n_bytes: int) -> bytes:
            kept = cached_file(hub.cache_dir, remote)
            if kept is not None:
                with kept.open("rb") as file:
                    file.seek(offset_bytes)
                    return file.read(n_bytes)
            if hub.client is None:
                raise HubUnreachable(f"HF_HUB_OFFLINE is set, and the cache has no {remote.name}", "unset it")
            return b"".join(hub.client.read(remote, offset_bytes, n_bytes))

        return remote_source(name, parsed, hub.repository, read)
