"""Wide networks in the models of bench.wan_model and bench.followers_model, in short; `make wan` and
`make followers` are the long forms."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench.followers_model import NEIGHBOURS, Crowd, Followers
from bench.wan import simulate
from bench.wan_costs import Costs
from bench.wan_lines import REGIONS, rtt_ms
from bench.wan_model import Shape, Wide
from bench.wan_plot import Bars, Lines, draw, ticks
from ledger.proofs.quorum import quorum
from p2p.room import inbound_max

STEP_US = {"Vote": 25.0, "Propose": 80.0}


def test_the_lines_are_those_of_a_globe() -> None:
    ways = [(a, b) for a in range(len(REGIONS)) for b in range(len(REGIONS))]
    assert all(rtt_ms(a, b) == rtt_ms(b, a) > 0 for a, b in ways)
    assert rtt_ms(REGIONS.index("Washington"), REGIONS.index("London")) == 75
    assert rtt_ms(REGIONS.index("Tokyo"), REGIONS.index("Sao Paulo")) == max(
        rtt_ms(8, other) for other in range(10) if other != 7
    )


def test_messages_a_view_are_those_of_the_protocol() -> None:
    """Two votes of each member to each other, and a proposal: nothing is relayed, fetched or asked twice,
    though lines differ by 300 ms."""
    found = simulate(Shape(16, seconds=2.0, warm_s=1.0), Costs(), STEP_US)
    kinds = found["messages_by_kind"]
    assert set(kinds) == {"Vote", "Propose", "Batch"}
    assert kinds["Vote"] == pytest.approx(2 * 16 * 15, rel=0.2)
    assert kinds["Propose"] == pytest.approx(15, rel=0.2)
    assert found["final"] > 60
    assert 150 < found["tx_p50_ms"] < 700


def test_a_block_is_final_after_three_hops() -> None:
    """Proposal, Notar and Final travel one way each, on the slowest line at most."""
    far = {"regions": (2, 4, 5, 0)}
    figures = Wide(Shape(4, seconds=5.0, warm_s=1.0, **far), Costs()).run()  # type: ignore[arg-type]
    slowest = max(rtt_ms(a, b) for a in far["regions"] for b in far["regions"]) / 2
    assert 0 < min(figures.block_ms) < 3 * slowest * 1.05 + 40
    assert max(figures.block_ms) < 3 * slowest * 1.05 + 40


def test_a_seed_repeats_exactly() -> None:
    shape = Shape(4, seconds=2.0, warm_s=0.5)
    one, again = (Wide(shape, Costs(), STEP_US).run() for _ in range(2))
    other = Wide(replace(shape, seed=2), Costs(), STEP_US).run()
    assert (one.tx_ms, one.messages, one.events) == (again.tx_ms, again.messages, again.events)
    assert one.tx_ms != other.tx_ms


def test_a_third_crashed_costs_timeouts_and_no_more() -> None:
    found = simulate(Shape(7, crashed=2, seconds=20.0, warm_s=5.0), Costs(), STEP_US)
    assert found["final"] > 0.9 * 20 * 50
    assert found["tx_p99_ms"] < 2 * Shape(7).timing.view_timeout_ms + 1_000
    live = 5
    assert found["messages_by_kind"]["Vote"] <= 3 * live * (live - 1), "who crashed has no link"
    too_many = Wide(Shape(7, crashed=3, seconds=5.0, warm_s=1.0), Costs())
    assert not too_many.run().tx_ms, "without a quorum nothing is final"


def test_what_following_costs_does_not_grow_with_the_number_of_followers() -> None:
    few, many = (Followers(Crowd(count, seconds=1.5)).run() for count in (20, 200))
    for key in ("bytes_in_per_tx", "cpu_us_per_tx"):
        assert many[key] == pytest.approx(few[key], rel=0.15)
    for found in (few, many):
        assert found["bytes_out_per_tx_max"] < NEIGHBOURS * found["bytes_in_per_tx"]
        assert found["validator_bytes_per_tx"] < inbound_max(NEIGHBOURS) * found["bytes_in_per_tx"]
        assert found["requests_per_s"] <= 10.5, "at FOLLOW_PACE_S"
        assert found["lowest_behind_blocks"] < 15, "all follow"


def test_a_crowd_of_followers_is_a_few_hops_deep() -> None:
    """If all dialled until they were full, 500 followers were a chain of 64 hops and 5 s (docs/bugs.md)."""
    found = Followers(Crowd(300, seconds=1.5)).run()
    assert found["hops_max"] < 20
    assert found["delay_p99_ms"] < 1_500


def test_more_validators_cost_a_follower_their_signatures_alone() -> None:
    """A certificate of each block, 64 B a signature; nothing else grows."""
    few, many = (Followers(Crowd(50, validators=count, seconds=2.0)).run() for count in (4, 100))
    signatures = (quorum(100) - quorum(4)) * 66 / 5  # five transactions a block
    assert many["bytes_in_per_tx"] - few["bytes_in_per_tx"] < signatures * 1.1


def test_plots_are_xml_and_show_what_they_are_given() -> None:
    bars = Bars("a < b", "ms", ["4", "16"], {"p50": [10, 20.5], "p99": [30, 0]})
    lines = Lines("c", "B", "n", {"x": [(1, 0.0), (1_000, 5.0)]}, log_x=True)
    for plot in (bars, lines):
        root = ElementTree.fromstring(draw(plot))
        assert root.tag.endswith("svg")
        assert any(text.text == plot.title for text in root.iter() if text.text)
        assert draw(plot) == draw(plot)
    assert "20.5" in draw(bars)
    assert ticks(0) == [0.0, 1.0]
    assert ticks(730)[-1] >= 730
