"""Who is served, how many at a time, and what can be seen of it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, FilePath, model_validator

from clipsearch_server.settings.group import Group


class AdmissionSettings(Group):
    """How many calls are served at a time; more are refused, to come again."""

    max_queries: int = Field(
        default=128, ge=1, description="calls that search or read, under way at a time"
    )
    max_ingest: int = Field(
        default=128, ge=1, description="calls that add, change or delete, under way at a time"
    )
    max_bulk: int = Field(
        default=16, ge=1, description="streams that add, export or import, under way at a time"
    )
    stream_idle_s: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="seconds without a message in either direction after which a stream is ended",
    )


class AuthSettings(Group):
    """Who may call; without a file of keys, whoever reaches the port."""

    keys_file: FilePath | None = Field(
        default=None,
        description="TOML file of API keys, as `clipsearch-server keys` writes it; read again when "
        "it changes",
    )


class TlsSettings(Group):
    """Encryption of the port; the files are read again when they change."""

    cert_file: FilePath | None = Field(
        default=None, description="PEM file of the server's certificate and those that signed it"
    )
    key_file: FilePath | None = Field(
        default=None, description="PEM file of the certificate's private key, without a password"
    )
    client_ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities of clients: only whoever has a certificate of "
        "theirs can connect",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = {self.cert_file, self.key_file, self.client_ca_file} != {None}
        if given and (self.cert_file is None or self.key_file is None):
            raise ValueError("TLS needs both tls.cert_file and tls.key_file")
        return self
