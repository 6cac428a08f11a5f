"""TLS for the server, with certificates that are reloaded when their files change."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc


def server_credentials(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    """Credentials from PEM files, None where there are none. Raises OSError when a file cannot be
    read. A renewed certificate is used for the next handshake after its file has changed."""
    if certificate is None or key is None:
        return None
    pair = _Pair(certificate, key)
    # grpc keeps the configuration in use when the fetcher answers None; its stubs do not say so.
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], pair.configuration_if_changed)
    return grpc.dynamic_ssl_server_credentials(
        pair.configuration(), fetch, require_client_authentication=False
    )


class _Pair:
    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen: tuple[int, int] | None = None
        self._lock = threading.Lock()  # grpc asks from its own threads

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        self._seen = self._stamp()
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._certificate.read_bytes())]
        )

    def configuration_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """None keeps the one in use, also while a renewal has written only one of the files."""
        with self._lock:
            try:
                return None if self._stamp() == self._seen else self.configuration()
            except OSError:
                return None

    def _stamp(self) -> tuple[int, int]:
        return self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns
