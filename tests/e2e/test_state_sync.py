"""A validator that lost its chain takes a state from the others' processes, votes again, survives a kill."""

from __future__ import annotations

from collections.abc import Callable

from ledger.transactions import Transfer
from tests.e2e.net import Net, gridpact, until

ALL = ("v1", "v2", "v3", "v4")


def test_a_reset_validator_takes_a_state_and_votes(small: Callable[..., Net]) -> None:
    net = small(validators=4)

    def more(transfers: int) -> None:
        key, api = net.key("consumer"), net.api("v1")
        for _ in range(transfers):
            api.submit(api.sign(key, Transfer(net.node_key("v1").public, 1)), wait="final")

    net.stop(*ALL)
    for name in ALL:
        config = net.home(name).config_file
        text = config.read_text()
        assert "offer_every_blocks = 1000" in text and "behind_blocks = 20000" in text
        text = text.replace("offer_every_blocks = 1000", "offer_every_blocks = 8")
        config.write_text(text.replace("behind_blocks = 20000", "behind_blocks = 6"))
    net.start(*ALL)
    more(24)
    until("states on offer", lambda: net.figure("v1", "snapshot_offers") == 2)

    net.stop("v4")
    home = str(net.home("v4").root)
    assert gridpact("reset", "--yes", home=home).code == 0
    more(4)
    net.start("v4")
    status = net.api("v4").status()
    assert status.first_height > 1, net.log("v4")
    assert net.figure("v4", "state_sync_installed_total") == 1
    shown = gridpact("status", home=home)
    assert f"from height {status.first_height} on" in shown.out
    net.until_equal("v1", "v4")

    net.stop("v3")  # from here on nothing is final without the votes of v4
    more(3)
    net.kill("v4")
    net.start("v4")
    more(2)
    net.until_equal("v1", "v4")
    assert net.api("v4").status().first_height == status.first_height
    assert net.api("v4").status().alarms == []
