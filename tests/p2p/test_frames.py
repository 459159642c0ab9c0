"""The wire format: what is encoded decodes to itself, in any pieces; anything else is the peer's fault."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import frames
from p2p.errors import LocalError, PeerFault
from p2p.frames import Decoder, Kind
from p2p.limits import HELLO_BYTES_MAX, MESSAGE_BYTES_MAX, REASON_BYTES_MAX, WRITE_BYTES_MAX

COUNTED = (Kind.DATA, Kind.REQUEST, Kind.RESPONSE)
NUMBERS = st.integers(0, 2**64 - 1)


def messages() -> st.SearchStrategy[tuple[Kind, bytes]]:
    small = st.tuples(st.sampled_from(COUNTED), st.binary(max_size=300))
    large = st.tuples(st.sampled_from(COUNTED), st.integers(60_000, 200_000).map(bytes))
    numbers = st.tuples(st.sampled_from((Kind.ACK, Kind.PING, Kind.PONG)), NUMBERS.map(frames.number_body))
    goodbye = st.tuples(st.just(Kind.GOODBYE), st.binary(max_size=REASON_BYTES_MAX))
    return st.one_of(small, large, numbers, goodbye)


@given(st.lists(messages(), max_size=6), st.lists(st.integers(1, 70_000), max_size=20))
def test_messages_survive_any_cutting(sent: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    wire = b"".join(frame for kind, body in sent for frame in frames.split(kind, body))
    decoder, received, at = Decoder("peer"), [], 0
    for cut in [*cuts, len(wire)]:
        received += decoder.feed(wire[at : at + cut])
        at += cut
    assert received == sent
    counted = sum(len(f) for kind, body in sent if kind in COUNTED for f in frames.split(kind, body))
    assert decoder.counted_bytes == counted


@given(st.binary(max_size=2_000), st.lists(st.integers(1, 50), max_size=50))
def test_foreign_bytes_decode_or_are_a_peer_fault(wire: bytes, cuts: list[int]) -> None:
    decoder, at = Decoder("peer"), 0
    try:
        for cut in [*cuts, len(wire)]:
            for kind, body in decoder.feed(wire[at : at + cut]):
                parse_any(kind, body)
            at += cut
    except PeerFault as fault:
        assert fault.peer == "peer"
        assert fault.rule


@given(st.sampled_from(Kind), st.binary(max_size=400))
def test_foreign_bodies_parse_or_are_a_peer_fault(kind: Kind, body: bytes) -> None:
    try:
        parse_any(kind, body)
    except PeerFault as fault:
        assert fault.peer == "peer"


def parse_any(kind: Kind, body: bytes) -> None:
    if kind is Kind.HELLO:
        frames.parse_hello("peer", body)
    elif kind is Kind.REQUEST:
        frames.parse_request("peer", body)
    elif kind is Kind.RESPONSE:
        frames.parse_response("peer", body)
    elif kind is Kind.GOODBYE:
        assert frames.parse_reason(body).isprintable()
    elif kind is not Kind.DATA:
        frames.parse_number("peer", body)


@given(st.integers(0, 2**32 - 1), st.text("abc/.-1", min_size=1, max_size=64), st.binary(max_size=100))
def test_requests_round_trip(request_id: int, method: str, body: bytes) -> None:
    assert frames.parse_request("peer", frames.request_body(request_id, method, body)) == (
        request_id,
        method,
        body,
    )


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=HELLO_BYTES_MAX))
def test_hellos_round_trip(instance: bytes, text: bytes) -> None:
    assert frames.parse_hello("peer", frames.hello_body(instance, text)) == (instance, text)


def test_every_frame_fits_one_write_and_the_largest_message_passes() -> None:
    body = bytes(MESSAGE_BYTES_MAX)
    parts = list(frames.split(Kind.RESPONSE, body))
    assert all(len(part) <= WRITE_BYTES_MAX for part in parts)
    assert Decoder("peer").feed(b"".join(parts)) == [(Kind.RESPONSE, body)]
    with pytest.raises(LocalError):
        list(frames.split(Kind.DATA, bytes(MESSAGE_BYTES_MAX + 1)))


def test_control_frames_may_stand_between_parts() -> None:
    parts = list(frames.split(Kind.DATA, bytes(150_000)))
    assert len(parts) == 3
    ping = frames.encode(Kind.PING, frames.number_body(5))
    got = Decoder("peer").feed(parts[0] + ping + parts[1] + ping + parts[2])
    assert [kind for kind, _ in got] == [Kind.PING, Kind.PING, Kind.DATA]


def frame(length: int, kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">IB", length, kind) + body


FIRST_PART = next(iter(frames.split(Kind.DATA, bytes(100_000))))


@pytest.mark.parametrize(
    ("wire", "rule"),
    [
        (frame(0, 2), "frame.empty"),
        (frame(65_497, 2), "frame.too_long"),
        (frame(0xFFFFFFFF, 2), "frame.too_long"),
        (frame(1, 0), "frame.unknown_kind"),
        (frame(1, 9), "frame.unknown_kind"),
        (frame(10, 3, bytes(9)), "frame.too_long"),
        (frame(2 + REASON_BYTES_MAX, 8), "frame.too_long"),
        (frame(2 + 17 + HELLO_BYTES_MAX, 1), "frame.too_long"),
        (frame(9, 4 | 0x80, bytes(8)), "frame.split"),
        (frame(1, 2 | 0x80), "frame.split"),
        (FIRST_PART + frame(1, 6), "frame.split"),
        (FIRST_PART + frame(18, 1, bytes(17)), "frame.split"),
        (FIRST_PART * 17, "frame.too_long"),
    ],
)
def test_what_breaks_a_rule_is_named(wire: bytes, rule: str) -> None:
    with pytest.raises(PeerFault) as caught:
        Decoder("peer").feed(wire)
    assert caught.value.rule == rule


def test_a_too_long_frame_is_refused_before_it_is_kept() -> None:
    with pytest.raises(PeerFault, match="too_long"):
        Decoder("peer").feed(frame(1_000_000, 2))  # its body has not come, and need not


def test_a_reason_is_harmless_text() -> None:
    assert frames.parse_reason(b"full\x1b[2J\n\xff") == "full?[2J?\N{REPLACEMENT CHARACTER}"
    assert len(frames.goodbye_body("x" * 1_000)) == REASON_BYTES_MAX
