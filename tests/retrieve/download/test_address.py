"""Addresses: which may be asked for, however they are written."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrieve.download.address import Refused, check_address, target_of
from retrieve.download.spec import DownloadSpec
from shards.disk.safe_text import visible

OTHER_SCHEMES = [
    *("file:///etc/passwd", "file://localhost/etc/passwd", "FILE:/etc/passwd", "ftp://example.org/a.jpg"),
    *("data:image/png;base64,iVBORw0KGgo=", "gopher://example.org/1", "pipe:cat /etc/passwd", "s3://bucket/a.jpg"),
    *("javascript:alert(1)", "jar:http://example.org!/a", "//example.org/a.jpg", "example.org/a.jpg", "/etc/passwd"),
    *("", "http:", "http:example.org/a.jpg", "http:/example.org/a.jpg", "https//example.org", "unix:/run/docker.sock"),
]
# of this machine, of networks behind it, of services that give keys away
REFUSED_HOSTS = [
    *("127.0.0.1", "127.1", "127.0.1", "127.000.000.001", "127.255.255.254", "0.0.0.0", "0", "0177.0.0.1"),
    *(
        "017700000001",
        "0x7f.0.0.1",
        "0x7f000001",
        "0X7F.1",
        "2130706433",
        "00000000177.0.0.1",
        "127.0.0.1.",
        "127%2e0.0.1",
    ),
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain", "printer", "db.internal"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "169.254.1.1"),
    *("2852039166", "0xa9fea9fe", "metadata.google.internal", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.0.1"),
    *("198.18.0.1", "192.0.2.1", "203.0.113.5", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]"),
    *("[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]", "[::1", "::1", "[127.0.0.1]"),
    *("①②⑦.0.0.1", "127。0。0。1", "example.org\\@127.0.0.1", "example..org", "-a.org", "a.1", "exa mple.org", ""),
]
USERS = ["user@127.0.0.1", "user:pass@example.org", "127.0.0.1@example.org", "example.org@127.0.0.1", "%40@example.org"]


@pytest.mark.parametrize("url", OTHER_SCHEMES)
def test_g1_other_schemes_than_http_and_https_are_refused(url):
    with pytest.raises(Refused, match="refused: found"):
        target_of(url)


@pytest.mark.parametrize("host", [*REFUSED_HOSTS, *USERS])
def test_g2_hosts_of_this_machine_and_its_networks_are_refused_however_they_are_written(host):
    for scheme in ("http", "https"):
        with pytest.raises(Refused):
            target_of(f"{scheme}://{host}/a.jpg")


@pytest.mark.parametrize("port", ["22", "25", "6379", "11211", "0", "65536", "99999999", "+80", "8o", "-1", ""])
def test_other_ports_than_those_of_web_servers_are_refused(port):
    with pytest.raises(Refused):
        target_of(f"http://example.org:{port}/a.jpg")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://example.org", "http://example.org/"),
        ("HTTPS://Images.Example.ORG:443/A.jpg?b=1#c", "https://images.example.org/A.jpg?b=1"),
        ("http://example.org:8080/a b/ü.jpg?q=ß", "http://example.org:8080/a%20b/%C3%BC.jpg?q=%C3%9F"),
        ("http://example.org?a.jpg", "http://example.org/?a.jpg"),
        ("http://a_b.example.org/%20%zz", "http://a_b.example.org/%20%zz"),
        ("http://xn--bcher-kva.example/a", "http://xn--bcher-kva.example/a"),
        ("http://93.184.216.34/a", "http://93.184.216.34/a"),
        ("https://[2606:4700::1111]/a", "https://[2606:4700::1111]/a"),
    ],
)
def test_an_address_of_the_public_web_has_one_spelling(url, asked):
    assert target_of(url).url == asked
    assert target_of(asked).url == asked


@given(st.text(max_size=40))
@example("http://a.b/\ud800")
@example("http://a.b/\r\nX: y")
def test_any_text_is_refused_or_becomes_plain_characters_of_one_line(text):
    for url in (text, f"http://{text}", f"http://example.org/{text}", f"http://example.org{text}/a"):
        try:
            asked = target_of(url).url
        except Refused as error:
            said = str(error)
        else:
            said = asked
            assert asked.isascii()
            assert " " not in asked
        assert visible(said) == said


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_no_address_passes_that_python_calls_private_and_none_that_holds_one(address):
    inner = [getattr(address, name, None) for name in ("ipv4_mapped", "sixtofour")]
    private = any(one.is_private or one.is_loopback or one.is_multicast for one in (address, *filter(None, inner)))
    try:
        check_address(str(address))
    except Refused:
        return
    assert not private
    assert address.is_global


def test_a_host_that_a_recipe_allows_is_allowed_by_its_name_and_port_alone():
    allowed = DownloadSpec(allow_hosts=("mirror.lan:9000", "10.0.0.7", "[fd00::1]:81")).allowed
    for url in ("http://mirror.lan:9000/a", "http://10.0.0.7/a", "https://10.0.0.7:8443/a", "http://[fd00::1]:81/a"):
        assert target_of(url, allowed).url == url
    for url in (
        "http://mirror.lan/a",
        "http://10.0.0.7:22/a",
        "http://10.0.0.8/a",
        "http://10.7/a",
        "http://[fd00::1]/a",
    ):
        with pytest.raises(Refused):
            target_of(url, allowed)


@pytest.mark.parametrize("text", ["http://mirror.lan", "mirror.lan:port", "", "a b", "a@b", "mirror.lan/a", "[fd00::1"])
def test_what_is_no_host_is_refused_in_the_recipe(text):
    with pytest.raises(ValidationError, match=r"download.allow_hosts: found .*, expected HOST or HOST:PORT"):
        DownloadSpec(allow_hosts=(text,))


@pytest.mark.parametrize("text", ["proxy.lan", "http://proxy.lan:3128", "", "user:word@proxy.lan:3128"])
def test_what_is_no_proxy_is_refused_in_the_recipe(text):
    """A password would stand in the recipe that lies beside the images."""
    with pytest.raises(ValidationError, match=r"download.proxy: found .*, expected HOST"):
        DownloadSpec(proxy=text)
    assert DownloadSpec(proxy="proxy.lan:3128").proxy_place == ("proxy.lan", 3128)
    assert DownloadSpec().proxy_place is None


def test_the_examples_of_public_addresses_are_public():
    """A table of what is refused says nothing if all is refused."""
    for text in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"):
        assert ipaddress.ip_address(text).is_global
        check_address(text)
