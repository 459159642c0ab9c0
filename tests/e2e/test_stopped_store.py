"""A stopped validator of a running network: inspected, rolled back, reset; each time it comes back equal."""

from __future__ import annotations

import json
from collections.abc import Callable

from ledger.transactions import Transfer
from tests.e2e.net import Net, gridpact, until


def test_rollback_and_reset_of_a_validator(small: Callable[..., Net]) -> None:
    net = small(validators=4)
    home = str(net.home("v4").root)

    def more(transfers: int) -> None:
        key = net.key("consumer")
        for _ in range(transfers):
            net.api("v1").submit(
                net.api("v1").sign(key, Transfer(net.node_key("v1").public, 1)), wait="final"
            )

    def inspected(code: int = 0) -> dict[str, int]:
        said = gridpact("inspect", "-o", "json", home=home)
        assert said.code == code, said.err
        found: dict[str, int] = json.loads(said.out)
        return found

    more(24)  # past the views after which the sign state is pruned for the first time
    said = gridpact("inspect", home=home)
    assert (said.code, "in use by another process" in said.err) == (1, True)
    said = gridpact("reset", "--yes", home=home)
    assert (said.code, "Stop it first" in said.err) == (1, True)
    net.stop("v4")
    before = inspected()
    assert before["damage"] == []
    assert gridpact("rollback", "--blocks", "5", home=home).code == 0
    assert inspected()["height"] == before["height"] - 5
    more(3)
    net.start("v4")
    assert net.until_equal("v1", "v4")[0] > before["height"]

    net.stop("v4")
    promised = json.loads(gridpact("inspect", "-o", "json", home=home).out)["sign_state"]
    assert gridpact("reset", "--yes", home=home).code == 0
    net.start("v4")
    net.stop("v3")  # from here on nothing is final without the votes of v4
    more(3)
    net.until_equal("v1", "v4")
    net.kill("v4")
    after = inspected()
    assert json.loads(json.dumps(after["sign_state"]))["floor"] >= promised["floor"] > 0
    assert after["rollback_blocks"] == 0
    said = gridpact("rollback", home=home)
    assert (said.code, "after a kill" in said.err) == (1, True)
    config = net.home("v4").config_file
    assert "size_mib_max = 0" in config.read_text()
    config.write_text(config.read_text().replace("size_mib_max = 0", "size_mib_max = 16"))
    net.start("v3", "v4")
    assert ("gridpact_store_blocks_dropped_total", "") in net.figures("v4")  # it looks after its budget
    assert ("gridpact_store_blocks_dropped_total", "") not in net.figures("v3")
    assert net.api("v4").status().first_height == 1
    until("v4 is where the others are", lambda: net.until_equal("v1", "v3", "v4"))
