"""Accounts. Supply is constant: all balances and all escrows together are what genesis made.

[M1] A transfer moves 1 to AMOUNT_MAX micro-credits to another account.
[M2] No balance is ever negative.
"""

from __future__ import annotations

from ledger.errors import LocalError, Refused
from ledger.keys import PUBLIC_KEY_BYTES
from ledger.limits import AMOUNT_MAX
from ledger.records import Account, key_account
from ledger.text.quantities import credits_text
from ledger.transactions import Transfer
from ledger.transition.env import Env


def transfer(env: Env, body: Transfer) -> None:
    """[M1] Raises Refused("money.…")."""
    if len(body.to) != PUBLIC_KEY_BYTES:
        raise Refused("money.recipient", f"a public key of {PUBLIC_KEY_BYTES} bytes wanted", "to")
    if body.to == env.sender:
        raise Refused("money.to_oneself", "sender and recipient are the same", "to")
    if not 0 < body.amount <= AMOUNT_MAX:
        raise Refused("money.amount", f"1 to {AMOUNT_MAX} micro-credits", "amount")
    debit(env, env.sender, body.amount)
    credit(env, body.to, body.amount)
    env.emit("transfer", env.tx_id, sender=env.sender.hex(), to=body.to.hex(), amount=body.amount)


def balance(env: Env, account: bytes) -> int:
    """Micro-credits of an account; 0 for one that never had any."""
    found = env.read(Account, key_account(account))
    return 0 if found is None else found.balance


def debit(env: Env, account: bytes, amount: int) -> None:
    """[M2] Take micro-credits out of an account. Raises Refused("money.insufficient")."""
    held = balance(env, account)
    if held < amount:
        raise Refused("money.insufficient", f"balance {credits_text(held)}, wanted {credits_text(amount)}")
    if amount:
        env.write(key_account(account), Account(held - amount))


def credit(env: Env, account: bytes, amount: int) -> None:
    """Put micro-credits into an account, which they came to from another account or an escrow."""
    if amount < 0:
        raise LocalError(f"a credit of {amount}")
    if amount == 0:
        return
    env.write(key_account(account), Account(balance(env, account) + amount))
