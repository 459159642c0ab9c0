"""`python -m node.demo [--keep]`: tell the story, tidy up, end with 0 only if all of it held."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from node.demo.stage import DemoFailed, Stage
from node.demo.story import Story


def main() -> int:
    """0 when all of it held, 1 with the reason when not."""
    parser = argparse.ArgumentParser(prog="python -m node.demo")
    parser.add_argument("--keep", action="store_true", help="leave the network running, for a look around")
    keep = parser.parse_args().keep
    folder = Path(tempfile.mkdtemp(prefix="gridpact-demo-"))
    stage = Stage(folder)
    story = Story(stage, folder / "net")
    begin = time.monotonic()
    failed = False
    try:
        tell(story, keep=keep)
        story.summary()
        stage.console.print(f"[bold green]All of it held[/], in {time.monotonic() - begin:.0f} s.")
    except DemoFailed as error:
        failed = True
        stage.console.print(f"\n[bold red]The demo failed:[/] {error}", markup=True)
        stage.console.print(f"All output of the commands and the peers' logs: {folder}", soft_wrap=True)
    finally:
        if keep and not failed:
            stage.console.print(f"The network stays up. Explorer: http://{story.peers['v1']['api']}/")
            stage.console.print(
                f"Stop it with: .venv/bin/gridpact testnet down --dir {story.net}", soft_wrap=True
            )
        elif (story.net / "testnet.json").exists():
            stage.run("testnet", "down", shown=False)
            if not failed:
                shutil.rmtree(folder)
    return 1 if failed else 0


def tell(story: Story, *, keep: bool) -> None:
    """The seven steps."""
    stage = story.stage
    with stage.step("A local network: each peer its own process, key, LevelDB and libp2p host"):
        story.start_network()
    with stage.step("An author builds artifacts and publishes two signed contracts"):
        story.publish()
    with stage.step("A consumer tells the 3bot what they need"):
        story.order()
    with stage.step("Nothing runs before the stakeholders approve"):
        story.approve()
    with stage.step("3nodes verify for themselves, claim, fetch, run isolated, re-check, report"):
        story.run_workloads()
    with stage.step("It works; then a 3node and a validator are killed"):
        story.break_things()
    with stage.step("Sign-off, settlement, and one file that proves the whole life"):
        story.settle(keep=keep)


if __name__ == "__main__":
    sys.exit(main())
