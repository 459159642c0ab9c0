"""What mDNS tells and takes; that peers find each other by it stands in tests/netns/test_lan.py."""

from p2p.lan import addresses_in, addresses_on, text_of
from p2p.limits import MDNS_ADDRESSES_MAX

ID = "12D3KooWNRs8LMC5QuynSCxzw49B2T2CMUfWj5RRELguawhsmraE"


def at(host: str, port: int = 27656) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{ID}"


def test_what_is_told_can_be_dialled_by_others():
    hosts = ["10.1.0.7", "192.168.3.2"]
    assert addresses_on([at("0.0.0.0")], hosts) == [at("10.1.0.7"), at("192.168.3.2")]
    assert addresses_on([at("127.0.0.1"), at("10.9.9.9")], hosts) == [at("10.9.9.9")]
    assert len(addresses_on([at("0.0.0.0")], [f"10.0.0.{i}" for i in range(99)])) == MDNS_ADDRESSES_MAX


def test_a_text_record_round_trips():
    told = [at("10.1.0.7"), at("192.168.3.2")]
    assert addresses_in(text_of(told)) == told
    assert text_of(told)[0] == len(f"dnsaddr={told[0]}")


def test_what_is_malformed_is_left_out():
    good = at("10.0.0.1")
    strings = [
        b"",
        b"dnsaddr=",
        b"dnsaddr=/ip4/1.2.3.4",
        b"other=" + good.encode(),
        b"dnsaddr=\xff\xfe",
        b"x" * 255,
    ]
    text = b"".join(bytes([len(one)]) + one for one in strings) + text_of([good])
    assert addresses_in(text) == [good]
    assert addresses_in(b"\xff" + b"dnsaddr=" + good.encode()) == [good]  # shorter than it says: still whole
    assert addresses_in(text_of([good])[:-5]) == []
    assert len(addresses_in(text_of([at("10.0.0.1", port) for port in range(1, 60)]))) == MDNS_ADDRESSES_MAX
