"""Who may reach and call a server, from the settings to a call, within this process."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from prometheus_client import REGISTRY

from clipsearch import AsyncSearchClient, UnauthenticatedError, UnavailableError
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import (
    ImageSearchServiceServicer,
    add_ImageSearchServiceServicer_to_server,
)
from clipsearch_server import check
from clipsearch_server import open_identity as identity_opener
from clipsearch_server.callers import Caller, Scope
from clipsearch_server.errors import StartupError, Unauthenticated
from clipsearch_server.identity.api_keys import KeyRing, KnownKey, hash_of
from clipsearch_server.identity.certificate_file import read_certificate
from clipsearch_server.identity.exposure import is_loopback
from clipsearch_server.identity.reloading import Reloaded
from clipsearch_server.identity.tls import warn_of_expiry
from clipsearch_server.open_identity import open_identity
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.authentication import Authenticator
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.rpc.interceptors import CallInterceptor
from clipsearch_server.rpc.methods import Work
from clipsearch_server.settings import Settings

KEY = f"cs_{'k' * 43}"
LOOPBACK = IPv4Address("127.0.0.1")
PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


class Service(ImageSearchServiceServicer):
    async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(version="1.2.3")


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """The address of a server that asks callers for what the settings say."""
    async with open_identity(settings) as identity:
        interceptor = CallInterceptor(
            authenticate=identity.authenticate,
            admission=Admission(dict.fromkeys(Work, 8)),
            default_deadline_s=10,
        )
        server = grpc.aio.server(interceptors=[interceptor])
        add_ImageSearchServiceServicer_to_server(Service(), server)
        health = HealthReporter({})
        add_HealthServicer_to_server(health, server)
        address = f"127.0.0.1:{identity.listen(server, settings.address)}"
        await server.start()
        await health.check()
        try:
            yield address
        finally:
            await server.stop(0)


class Files:
    """An authority of ours, what it issues, and a file of keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca = self.write("ca.pem", self.authority.cert_pem.bytes())
        self.server = self.issue("search.example.com")

    def issue(self, *identities: str, **options: Any) -> Path:
        issued = self.authority.issue_cert(*identities, **options)
        content = issued.private_key_and_cert_chain_pem.bytes()
        return self.write(f"{identities[0] if identities else 'nameless'}.pem", content)

    def write(self, name: str, content: bytes | str) -> Path:
        file = self._folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(0o600)
        return file

    def keys(self, certificates: str = "") -> Path:
        key = f'[[keys]]\nname = "k"\nsha256 = "{hash_of(KEY)}"\nscopes = ["read"]\n'
        return self.write("keys.toml", key + certificates)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def settings_of(**values: Any) -> Settings:
    return Settings.model_validate({"address": "127.0.0.1:0"} | values)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def mutual_tls(files: Files, certificates: str) -> Settings:
    return settings_of(
        auth={"keys_file": files.keys(certificates)},
        tls={"cert_file": files.server, "key_file": files.server, "client_ca_file": files.ca},
    )


@pytest.fixture
def server_name(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    """Has the server's certificate be for the address that these tests reach it by."""
    files.server = files.issue("127.0.0.1", "search.example.com")


@pytest.mark.parametrize(
    ("subject", "identities", "options", "is_known"),
    [
        ("indexer.internal", ["indexer.internal"], {}, True),
        ("indexer@example.com", ["a.internal", "indexer@example.com"], {}, True),
        ("*", ["whoever.internal"], {}, True),
        ("indexer.internal", ["other.internal"], {}, False),
        # The common name counts only where there is no other.
        ("indexer", ["other.internal"], {"common_name": "indexer"}, False),
    ],
)
@pytest.mark.usefixtures("server_name")
async def test_a_certificate_is_known_by_its_name(
    files: Files,
    subject: str,
    identities: list[str],
    options: dict[str, Any],
    is_known: bool,
) -> None:
    entry = f'[[certificates]]\nname = "c"\nsubject = "{subject}"\nscopes = ["read"]\n'
    own = files.issue(*identities, **options)
    async with (
        serving(mutual_tls(files, entry)) as address,
        AsyncSearchClient(
            address, ca_file=files.ca, client_cert_file=own, client_key_file=own
        ) as client,
    ):
        if is_known:
            assert (await client.server_info()).version == "1.2.3"
        else:
            with pytest.raises(UnauthenticatedError):
                await client.server_info()


@pytest.mark.usefixtures("server_name")
async def test_a_key_says_who_calls_whatever_the_certificate_says(files: Files) -> None:
    entry = '[[certificates]]\nname = "c"\nsubject = "*"\nscopes = ["read"]\n'
    own = files.issue("client.internal")
    async with serving(mutual_tls(files, entry)) as address:
        for key in (KEY, "no-such-key"):
            async with AsyncSearchClient(
                address,
                ca_file=files.ca,
                client_cert_file=own,
                client_key_file=own,
                api_key=key,
            ) as client:
                if key == KEY:
                    await client.server_info()
                else:
                    with pytest.raises(UnauthenticatedError):
                        await client.server_info()


@pytest.mark.usefixtures("server_name")
async def test_nobody_connects_without_a_certificate_of_the_authority(
    files: Files, tmp_path: Path
) -> None:
    (tmp_path / "strangers").mkdir()
    stranger = Files(tmp_path / "strangers").issue("client.internal")
    async with serving(mutual_tls(files, "")) as address:
        for own in (None, stranger):
            async with AsyncSearchClient(
                address,
                ca_file=files.ca,
                client_cert_file=own,
                client_key_file=own,
                api_key=KEY,
            ) as client:
                with pytest.raises(UnavailableError):
                    await client.server_info(timeout_s=2)


async def test_the_health_check_trusts_the_servers_own_certificate(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = mutual_tls(files, "")
    for name, value in (
        ("AUTH_KEYS_FILE", settings.auth.keys_file),
        ("TLS_CERT_FILE", settings.tls.cert_file),
        ("TLS_KEY_FILE", settings.tls.key_file),
        ("TLS_CLIENT_CA_FILE", settings.tls.client_ca_file),
    ):
        monkeypatch.setenv(f"CLIPSEARCH_{name}", str(value))
    own = str(files.issue("client.internal"))
    async with serving(settings) as address:
        monkeypatch.setenv("CLIPSEARCH_ADDRESS", f"0.0.0.0:{address.rpartition(':')[2]}")
        assert await asyncio.to_thread(check.main, []) == 0
        assert await asyncio.to_thread(check.main, ["--cert", own, "--key", own]) == 0
        other = files.write("other.pem", files.issue("search.example.com").read_bytes())
        monkeypatch.setenv("CLIPSEARCH_TLS_CERT_FILE", str(other))
        assert await asyncio.to_thread(check.main, [address]) == 1
    assert capsys.readouterr().err == f"{address}: UNAVAILABLE\n"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("127.1:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("0:1", False),
        ("[::]:1", False),
        ("[::ffff:0.0.0.0]:1", False),
        ("10.0.0.1:1", False),
        ("[fe80::1]:1", False),
    ],
)
async def test_who_can_reach_an_address(address: str, expected: bool) -> None:
    assert await is_loopback(address) is expected


# What gRPC would take for a socket in the file system, or ask its own resolver for.
@pytest.mark.parametrize("address", ["unix:1", "dns:1", "no-such-host.invalid:1"])
async def test_a_name_that_leads_nowhere_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match=f"cannot listen on {address}"):
        await is_loopback(address)


async def test_other_machines_are_served_with_keys_and_tls_only(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"keys_file": files.keys()}
    tls = {"cert_file": files.server, "key_file": files.server}
    for values, lacking in (
        ({}, r"auth\.keys_file .* and .* tls\.cert_file"),
        ({"tls": tls}, r"auth\.keys_file"),
        ({"auth": keys}, r"tls\.cert_file"),
    ):
        exposed = settings_of(address="0.0.0.0:0", **values)
        with pytest.raises(StartupError, match=lacking) as caught:
            async with open_identity(exposed):
                pass
        assert "--insecure" in caught.value.message
        caplog.clear()
        async with open_identity(exposed.model_copy(update={"insecure": True})):
            assert "insecure: other machines can reach 0.0.0.0:0" in caplog.text
    caplog.clear()
    async with open_identity(settings_of(address="0.0.0.0:0", auth=keys, tls=tls)):
        assert caplog.text == ""


async def test_the_end_of_the_certificate_is_a_metric(files: Files) -> None:
    tls = {"cert_file": files.server, "key_file": files.server}
    async with open_identity(settings_of(tls=tls)):
        certificate = await asyncio.to_thread(read_certificate, files.server, files.server, None)

        def shown() -> bool:
            name = "clipsearch_tls_certificate_expiry_timestamp_seconds"
            value = REGISTRY.get_sample_value(name, {"certificate": "server"})
            return value == certificate.expires.timestamp()

        await until(shown)


def test_files_of_no_use_are_named(files: Files, tmp_path: Path) -> None:
    server, rubbish = files.server, files.write("rubbish.pem", "rubbish")
    other = files.issue("other.example.com")
    for cert, key, ca, expected in (
        (rubbish, server, None, r"rubbish\.pem: tls\.cert_file"),
        (server, rubbish, None, r"rubbish\.pem: tls\.key_file"),
        (server, other, None, r"other\.example\.com\.pem: is not the key of the certificate"),
        (server, server, rubbish, r"rubbish\.pem: tls\.client_ca_file"),
        (tmp_path / "gone.pem", server, None, "No such file"),
    ):
        with pytest.raises(StartupError, match=expected):
            read_certificate(cert, key, ca)


def test_a_key_of_an_unknown_kind_is_named(files: Files) -> None:
    pkcs8 = bytes.fromhex("300c020100300506032a03040400")  # of the algorithm 1.2.3.4
    pem = b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n"
    odd = files.write("odd.pem", pem % base64.b64encode(pkcs8))
    with pytest.raises(StartupError, match=r"odd\.pem: tls\.key_file"):
        read_certificate(files.server, odd, None)


def self_signed(private_key: PrivateKey) -> bytes:
    """A certificate of this key for 127.0.0.1, and the key."""
    algorithm = None if isinstance(private_key, Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private_key.public_key(), 1, now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=True)
        .sign(private_key, algorithm)
    )
    pem = serialization.Encoding.PEM
    pkcs8, open_to_all = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem) + private_key.private_bytes(pem, pkcs8, open_to_all)


@pytest.mark.parametrize(
    ("new_key", "is_verified"),
    [
        (lambda: rsa.generate_private_key(65_537, 2048), True),
        (lambda: ec.generate_private_key(ec.SECP256R1()), True),
        (lambda: ec.generate_private_key(ec.SECP384R1()), True),
        (lambda: ec.generate_private_key(ec.SECP521R1()), False),
        (lambda: ec.generate_private_key(ec.SECP256K1()), False),
        (Ed25519PrivateKey.generate, False),
    ],
    ids=["RSA", "P-256", "P-384", "P-521", "secp256k1", "Ed25519"],
)
async def test_a_key_that_no_client_can_verify_is_refused_at_the_start(
    files: Files, new_key: Callable[[], PrivateKey], is_verified: bool
) -> None:
    both = files.write("both.pem", self_signed(new_key()))
    if not is_verified:
        with pytest.raises(
            StartupError, match=r"both\.pem: .*; use RSA, or ECDSA on P-256 or P-384"
        ):
            await asyncio.to_thread(read_certificate, both, both, None)
        return
    async with (
        serving(settings_of(tls={"cert_file": both, "key_file": both})) as address,
        AsyncSearchClient(address, ca_file=both) as client,
    ):
        assert (await client.server_info()).version == "1.2.3"


def test_whatever_a_new_version_fails_with_the_next_one_is_read(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    file = files.write("value", "1")
    followed = Reloaded("value", [file], lambda: 1 // int(file.read_text()))
    files.write("value", "0000")
    followed.check()
    followed.check()
    assert followed.value == 1
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the new value cannot be used, the former stay: <class 'ZeroDivisionError'>"], (
        "once, by its type"
    )
    files.write("value", "-1")
    followed.check()
    assert followed.value == -1


async def test_row_29_a_revoked_key_is_refused_whatever_failed_before(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(authenticator: Authenticator) -> bool:
        raise RuntimeError("odd")

    monkeypatch.setattr(identity_opener, "_CHECK_EVERY_S", 0.01)
    keys = files.keys()
    with monkeypatch.context() as failing:
        failing.setattr(Authenticator, "log_refused", fail)
        async with open_identity(settings_of(auth={"keys_file": keys})) as identity:
            await until(lambda: "looking after keys and certificates failed" in caplog.text)
            context: Any = FakeContext(f"Bearer {KEY}")
            assert identity.authenticate(context).name == "k"
            files.write("keys.toml", "")

            def is_refused() -> bool:
                try:
                    identity.authenticate(context)
                except Unauthenticated:
                    return True
                return False

            await until(is_refused)
            failing.undo()


def test_a_private_key_for_everybody_is_warned_of(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    read_certificate(files.server, files.server, None)
    assert caplog.text == ""
    files.server.chmod(0o644)
    warning = f"{files.server}: every user of this machine can read the private key"
    followed = Reloaded(
        "certificate",
        [files.server, files.ca],
        lambda: read_certificate(files.server, files.server, files.ca),
    )
    assert caplog.messages == [warning]
    caplog.clear()
    authority = files.ca.read_bytes()
    files.write("ca.pem", "rubbish")
    for _ in range(3):
        followed.check()
    assert warning not in caplog.messages
    assert len(caplog.messages) == 1
    files.write("ca.pem", authority)
    for _ in range(3):
        followed.check()
    assert caplog.messages.count(warning) == 1  # once per version


@pytest.mark.parametrize(
    ("left", "level", "word"),
    [
        (timedelta(days=15), None, ""),
        (timedelta(days=13, hours=1), logging.WARNING, "expires in 13 days"),
        (timedelta(seconds=-1), logging.ERROR, "has expired"),
    ],
)
def test_the_end_of_a_certificate_is_warned_of(
    files: Files,
    caplog: pytest.LogCaptureFixture,
    left: timedelta,
    level: int | None,
    word: str,
) -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    issued = files.issue("127.0.0.1", not_before=end - timedelta(days=90), not_after=end)
    certificate = read_certificate(issued, issued, None)
    assert certificate.expires == end
    warn_of_expiry(certificate, end - left)
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert word in caplog.text


class FakeContext:
    """As much of a call as tells who makes it."""

    def __init__(self, *values: str) -> None:
        self._values = values

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("user-agent", "test"), *(("authorization", value) for value in self._values)]

    def peer_identities(self) -> None:
        return None


def test_row_29_a_key_is_good_until_it_expires_and_refusals_are_summed_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    caller = Caller("web", frozenset({Scope.READ}))
    ring = KeyRing({hash_of(KEY): KnownKey(caller, now + timedelta(hours=1))}, [])
    authenticate: Any = Authenticator(lambda: ring, now=lambda: now)
    assert authenticate(FakeContext(f"Bearer {KEY}")) is caller
    now += timedelta(hours=1)
    messages = set()
    # gRPC takes what is no UTF-8 for Latin-1.
    odd = ("Bearer", "Bearer \N{BLACK STAR}", f"Bearer {KEY}\xff\xfe", f"bearer {KEY}x")
    for value in (f"Bearer {KEY}", *odd):
        with pytest.raises(Unauthenticated) as caught:
            authenticate(FakeContext(value))
        messages.add(caught.value.message)
    assert len(messages) == 1  # which does not tell how near a guess was
    with pytest.raises(Unauthenticated):
        authenticate(FakeContext())
    assert authenticate.log_refused()
    assert not authenticate.log_refused()
    (record,) = caplog.records
    assert record.getMessage() == (
        "refused calls of strangers: 4 with an unknown key, 1 with an expired key of web, "
        "1 without a key"
    )
