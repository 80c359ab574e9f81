"""Which proxy a URL is fetched through, if any. Pure; connects to nothing."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from qwenctl.errors import InvalidRequest
from qwenctl.settings import NetworkSettings


def proxy_for(network: NetworkSettings, url: str) -> str | None:
    """Return the URL of the proxy for `url`, with a scheme; None: directly.

    Raises:
        InvalidRequest: the proxy is of a kind that we do not speak to.
    """
    parts = urlsplit(url)
    proxy = network.proxies.get(parts.scheme) or network.proxies.get("all")
    host = (parts.hostname or "").lower()
    rules = (rule.strip().lower() for rule in network.no_proxy.split(","))
    if not proxy or any(_covers(rule, host, parts.port) for rule in rules if rule):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in ("http", "https"):
        raise InvalidRequest(f"a proxy of the kind {scheme}:// is set", "HTTPS_PROXY takes http:// or https://")
    return proxy


def _covers(rule: str, host: str, port: int | None) -> bool:
    """Tell whether an entry of NO_PROXY (a domain, an address, a network; with a port or not) means this host."""
    if rule == "*":
        return True
    if _is_address(host) and "/" in rule:
        try:
            return ip_address(host) in ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, wanted_port = rule.rpartition(":")
    if colon and wanted_port.isdigit() and not _is_address(rule):
        if port != int(wanted_port):
            return False
        rule = name
    rule = rule.strip("[]").lstrip(".")
    return host == rule or host.endswith(f".{rule}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
