"""A hub behind TLS: strangers' certificates are refused, those that the user names are trusted."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.errors import HubUnreachable
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.settings import NetworkSettings
from tests.hub_server.faults import Fault
from tests.hub_server.remote_files import remote_files
from tests.hub_server.server import HubServer

DATA = b"weights" * 1000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that vouches for itself."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate, and is not there")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def hub(certificate: Path) -> Iterator[HubServer]:
    with HubServer(certificate=certificate) as hub:
        hub.add("o/m", {"m.gguf": DATA})
        yield hub


def read(hub: HubServer, network: NetworkSettings) -> bytes:
    options = ClientOptions(hub.url, network=network, retry=RetryPolicy(n_attempts=2, first_s=0.0))
    with RangeClient(options) as client:
        remote = remote_files(hub.url, hub.repositories["o/m"])[0]
        return b"".join(client.read(remote, 0, len(DATA)))


def test_a_stranger_s_certificate_is_refused(hub: HubServer) -> None:
    with pytest.raises(HubUnreachable, match=r"(?i)certificate"):
        read(hub, NetworkSettings())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_that_the_user_names_is_trusted(hub: HubServer, certificate: Path, variable: str) -> None:
    assert hub.url.startswith("https://")
    assert read(hub, NetworkSettings.from_environment({variable: f"{certificate}.crt"})) == DATA


def test_from_tls_to_plain_http_is_no_way(hub: HubServer, certificate: Path) -> None:
    hub.fault = lambda exchange: Fault(headers={"Location": "http://127.0.0.1:1/x"})
    with pytest.raises(HubUnreachable, match="unsafely"):
        read(hub, NetworkSettings(ca_file=Path(f"{certificate}.crt")))
