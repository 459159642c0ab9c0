"""`gridpact logs`: what a slot's workload wrote, for the deployment's consumer alone."""

from __future__ import annotations

import secrets
import sys

from ledger.errors import Refused
from node.api.models import DeploymentDetail
from node.cli.context import EXIT_ERROR, EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import clean, emit, say
from node.limits import LOG_TAIL_BYTES_MAX
from node.sealed.log_wire import NONCE_BYTES, Question, make_question, open_answer


def logs(deployment: str, slot: str = "", /, *, key: str, last_bytes: int = 16_384) -> int:
    """Show the newest of what a slot's workload wrote, also of one that has ended. Only its consumer can.

    Args:
        deployment: Its id, or the first 6 or more digits.
        slot: WORKLOAD/INDEX; may be left out where there is one slot alone.
        key: Name of the consumer's key.
        last_bytes: How many bytes at most.
    """
    if not 1 <= last_bytes <= LOG_TAIL_BYTES_MAX:
        raise Failure(EXIT_USAGE, f"--last-bytes: 1 to {LOG_TAIL_BYTES_MAX} wanted")
    client = current.client()
    found = client.deployment(deployment)
    name = slot or _only_slot(found)
    reader = current.key(key)
    if reader.public.hex() != found.consumer:
        raise Failure(EXIT_REJECTED, f"only {found.consumer} reads its logs: the key of another account")
    status = client.status()
    question = Question(
        chain_id=status.chain_id,
        deployment=bytes.fromhex(found.id),
        slot=name,
        node=bytes.fromhex(_node_of(found, name)),
        account=reader.public,
        last_bytes=last_bytes,
        height=status.height,
        nonce=secrets.token_bytes(NONCE_BYTES),
    )
    try:
        tail = open_answer(reader, question, client.ask_logs(make_question(reader, question)))
    except Refused as error:
        raise Failure(EXIT_REJECTED, f"the answer is not to be believed: {error}") from None
    text = tail.data.decode(errors="replace")
    if current.output != "table":
        node = question.node.hex()
        emit({"slot": name, "term": tail.term, "node": node, "runs": tail.runs, "log": text})
        return 0
    say(f"{name}, term {tail.term}, {'runs' if tail.runs else 'does not run (any more)'}")
    for line in text.splitlines():
        sys.stdout.write(clean(line) + "\n")
    return 0


def _only_slot(found: DeploymentDetail) -> str:
    names = [slot.name for slot in found.slots]
    if len(names) != 1:
        raise Failure(EXIT_USAGE, f"which slot? {', '.join(names)}")
    return names[0]


def _node_of(found: DeploymentDetail, slot: str) -> str:
    """Key of the node that holds the slot, or told of it last."""
    holder = next((s.holder for s in found.slots if s.name == slot), None)
    if holder is None:
        raise Failure(EXIT_USAGE, f"no slot {slot!r}; there are: {', '.join(s.name for s in found.slots)}")
    if holder:
        return holder
    told = [receipt for receipt in found.receipts if receipt.slot == slot]
    if not told:
        raise Failure(EXIT_ERROR, f"nobody has run {slot} yet")
    return max(told, key=lambda receipt: receipt.time_ms).node
