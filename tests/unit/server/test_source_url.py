"""Only URLs that every parser reads alike, and that this server may ask for, pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch_server.errors import InvalidRequest
from clipsearch_server.fetch_policy import FetchPolicy
from clipsearch_server.source_url import MAX_URL_BYTES, SourceUrl

STANDARD = FetchPolicy()
ANY_PORT = FetchPolicy(ports=(range(1, 65_536),))


def refusal(text: str, policy: FetchPolicy = STANDARD) -> str:
    with pytest.raises(InvalidRequest) as caught:
        SourceUrl.parse(text, policy)
    assert caught.value.field == "url"
    return caught.value.reason


def test_parts_are_what_is_asked_for() -> None:
    url = SourceUrl.parse("HTTPS://Images.Example:443/a/b.jpg?x=1&y=%20#top", FetchPolicy())
    assert (url.scheme, url.host, url.port) == ("https", "images.example", 443)
    assert url.target == "/a/b.jpg?x=1&y=%20"
    assert url.authority == "images.example"


@pytest.mark.parametrize(
    ("text", "target", "authority"),
    [
        ("http://a.example", "/", "a.example"),
        ("http://a.example?q", "/?q", "a.example"),
        ("http://a.example:/x", "/x", "a.example"),
        ("http://a.example:443/", "/", "a.example:443"),
        ("http://[2606:4700:0::1111]:80/", "/", "[2606:4700::1111]"),
    ],
)
def test_defaults(text: str, target: str, authority: str) -> None:
    url = SourceUrl.parse(text, FetchPolicy())
    assert (url.target, url.authority) == (target, authority)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "http:///a.jpg",
        "http:a.jpg",
        "http://a.example/two words",
        " http://a.example/",
        "http://a.example/\n",
        "http://a.example/\r\nHost: b",
        "http://a.example\\@127.0.0.1/",
        "http://a.example/\x00",
        "http://a.example/\x7f",
        "http://a.example/café",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://ⓛocalhost/",
        "http://127%2e0.0.1/",
        "http://a.example:80:80/",
        "http://a.example:+80/",
        "http://[a.example]/",
        "http://[::1/",
        "http://[::1]a.example/",
        "http://a.example[::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://a,b/",
        "http://./",
        "http://.a.example/",
        "http://a.example/" + "x" * MAX_URL_BYTES,
    ],
)
def test_malformed(text: str) -> None:
    assert refusal(text) == "URL_MALFORMED"


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "ftp://a.example/", "gopher://a.example:70/_x", "data:image/png;base64,",
     "javascript:alert(1)", "//a.example/x", "a.jpg", "/etc/passwd", "unix:/run/docker.sock"],
)  # fmt: skip
def test_schemes(text: str) -> None:
    assert refusal(text, ANY_PORT) == "URL_SCHEME_NOT_ALLOWED"


@pytest.mark.parametrize("userinfo", ["u@", "u:p@", ":@", "@", "a.example:80@"])
def test_userinfo(userinfo: str) -> None:
    assert refusal(f"http://{userinfo}b.example/") == "URL_USERINFO"


@pytest.mark.parametrize("port", ["0", "22", "25", "81", "6333", "8080", "65536", "99999"])
def test_ports(port: str) -> None:
    assert refusal(f"http://a.example:{port}/") == "URL_PORT_NOT_ALLOWED"


def test_any_port_is_a_valid_one() -> None:
    assert SourceUrl.parse("http://a.example:8080/", ANY_PORT).port == 8080
    assert refusal("http://a.example:0/", ANY_PORT) == "URL_PORT_NOT_ALLOWED"
    assert refusal("http://a.example:65536/", ANY_PORT) == "URL_PORT_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b", "http://a.example/b"),
        ("b?c", "http://a.example/x/b?c"),
        ("//b.example/c", "http://b.example/c"),
        ("https://b.example/c", "https://b.example/c"),
    ],
)
def test_relative_urls(location: str, expected: str) -> None:
    url = SourceUrl.parse(location, FetchPolicy(), base="http://a.example/x/y")
    assert url.text == expected


def test_an_origin_is_scheme_host_and_port() -> None:
    origin = SourceUrl.parse("http://A.example/x?y", ANY_PORT).origin
    assert SourceUrl.parse("http://a.example:80/", ANY_PORT).origin == origin
    for other in ("https://a.example:80/", "http://b.example/", "http://a.example:81/"):
        assert SourceUrl.parse(other, ANY_PORT).origin != origin


def test_a_host_must_be_one_that_the_policy_names() -> None:
    policy = FetchPolicy(hosts=("*.example.com", "93.184.216.34"))
    for host in ("a.example.com", "a.b.EXAMPLE.com", "a.example.com.", "93.184.216.34"):
        SourceUrl.parse(f"https://{host}/", policy)
    for host in ("example.com", "badexample.com", "a.example.com.evil", "93.184.216.35",
                 "0x5d.0xb8.0xd8.0x22", "[2606:4700::1111]", "a.example.com.."):  # fmt: skip
        assert refusal(f"https://{host}/", policy) == "SOURCE_NOT_ALLOWED"


URLISH = st.text(st.sampled_from("htps:/@\\[]?#.%a1 \t\n\0é"), max_size=30)


@given(st.one_of(st.text(max_size=50), URLISH, URLISH.map("http://".__add__)))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        url = SourceUrl.parse(text, ANY_PORT)
    except InvalidRequest:
        return
    assert url.text.isascii()
    assert url.text.isprintable()
    assert url.host
    assert not set(url.host) & set("/@\\?#%[] ")
