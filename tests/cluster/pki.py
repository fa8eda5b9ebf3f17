"""The certificates of a cluster: one authority of its own and a client certificate for every component."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .common import run


class Authority:
    """A certificate authority in a folder; each certificate is NAME.crt with NAME.key beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        if not self.certificate.exists():
            folder.mkdir(parents=True, mode=0o700)
            _openssl(
                ["req", "-x509", *_NEW_KEY, "-keyout", folder / "ca.key", "-out", self.certificate, "-days", "30"]
                + ["-subj", "/CN=cclm-test-cluster", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            )
            key = folder / "service-account.key"
            _openssl(["genpkey", "-algorithm", "RSA", "-out", key])
            _openssl(["pkey", "-in", key, "-pubout", "-out", folder / "service-account.pub"])

    def issue(self, name: str, subject: str, alternatives: list[str] | None = None) -> tuple[Path, Path]:
        """The certificate and key of a subject, made on first use; `alternatives` as in IP:1.2.3.4, DNS:name."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not certificate.exists():
            request = self.folder / f"{name}.csr"
            _openssl(["req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", subject])
            extensions = self.folder / f"{name}.ext"
            lines = ["extendedKeyUsage=clientAuth,serverAuth"]
            if alternatives:
                lines.append("subjectAltName=" + ",".join(alternatives))
            extensions.write_text("\n".join(lines) + "\n")
            _openssl(
                ["x509", "-req", "-in", request, "-out", certificate, "-CA", self.certificate, "-days", "30"]
                + ["-CAkey", self.folder / "ca.key", "-CAcreateserial", "-extfile", extensions]
            )
        return certificate, key

    def kubeconfig(self, target: Path, name: str, subject: str, server: str) -> Path:
        """Write a client's configuration, with its certificate inside, so that the file alone is enough.

        It replaces an older one whole: a client that is just starting must not read half of it.
        """
        certificate, key = self.issue(name, subject)
        trust = _data("certificate-authority", self.certificate)
        content: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cclm", "cluster": {"server": server, **trust}}],
            "users": [{"name": name, "user": {**_data("client-certificate", certificate), **_data("client-key", key)}}],
            "contexts": [{"name": "cclm", "context": {"cluster": "cclm", "user": name}}],
            "current-context": "cclm",
        }  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_text(yaml.safe_dump(content))
        os.replace(fresh, target)
        return target


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _data(key: str, path: Path) -> dict[str, str]:
    return {f"{key}-data": base64.b64encode(path.read_bytes()).decode()}


def _openssl(arguments: Sequence[object]) -> None:
    run(["openssl", *(str(argument) for argument in arguments)], what="make a certificate")
