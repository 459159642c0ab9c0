"""Clients of the API: who is one, and what is shared among them."""

from __future__ import annotations

import pytest

from node.api.clients import Places, client_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", "http:192.0.2.7"),
        ("::ffff:192.0.2.7", "http:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "http:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "http:fe80::/64"),
        ("a socket", "http:a socket"),
    ],
)
def test_a_client_is_an_address_or_a_64(host: str, name: str) -> None:
    assert client_name({"type": "http", "client": (host, 1)}) == name


def test_who_has_no_address_is_one_client() -> None:
    assert client_name({"type": "http", "client": None}) == "http:"


def test_one_client_never_takes_all_places() -> None:
    places = Places(8, 6)
    while places.has_room("loud"):
        places.enter("loud")
    assert places.total == 6
    for _ in range(2):
        assert places.has_room("quiet")
        places.enter("quiet")
    assert not places.has_room("third")
    places.leave("loud")
    assert places.has_room("third")
    for client in ("loud",) * 5 + ("quiet",) * 2:
        places.leave(client)
    assert (places.total, places._taken) == (0, {})
