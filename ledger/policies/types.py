"""Shapes of approval policies, as they stand in contracts and manifests.

In canonical JSON a field of a rule that has its default is left out, so that a plain rule stays short.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Act = Literal["deploy", "signoff", "delete", "update", "release"]
ACTS: tuple[Act, ...] = ("deploy", "signoff", "delete", "update", "release")


class Weight(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An entry of `weigh`: each approval of a holder of `role`, or the one of `key`, weighs `weight`."""

    weight: int
    role: str | None = None
    key: str | None = None  # a public key in hex


class Auto(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Holds without a signature when every condition that is given holds; else others must sign.

    `budget`: the deployment may spend at most so many micro-credits. `approved_within_s`: exactly this
    manifest was approved by signatures at most so long before the order.
    """

    budget: int | None = None
    approved_within_s: int | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A node of an approval policy: exactly one of `role`, `key`, `all`, `any`, `weigh`, `auto` is set.

    `role`: `count` distinct holders of that role granted. `key`: this key granted. `all`: each child holds.
    `any`: at least `count` children hold. `weigh`: approvals of at least `count` weight. One approval fills
    one place only. The rest says which approvals count here and below, and when; it adds up on the way down.
    """

    role: str | None = None
    key: str | None = None  # a public key in hex
    all: tuple[Rule, ...] = ()
    any: tuple[Rule, ...] = ()
    weigh: tuple[Weight, ...] = ()
    auto: Auto | None = None
    count: int = 1
    ordered: bool = False  # `all`: a child counts only approvals of later blocks than those before it held
    exclude: tuple[str, ...] = ()  # "author", "consumer", "role:NAME", "key:HEX": do not count
    expires_s: int = 0  # an approval counts so long after it was accepted; 0: as long as it stands
    wait_s: int = 0  # the rule holds only after it has been met for so long
    veto: tuple[str, ...] = ()  # roles: while a holder rejects, the rule does not hold


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Who may sign for a role: `keys`, public keys in hex; or the members of `organisation`, an id in hex,
    that hold its `organisation_role` ("": all of them)."""

    name: str
    keys: tuple[str, ...] = ()
    organisation: str = ""
    organisation_role: str = ""


class Policies(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Approval policies by act. None: the act needs no approval (written out, never by accident).

    `delete`: to cancel what was approved once. `update`: to move to another manifest; "as_deploy" is the
    deploy policy, so that a weaker one, or none, must be written. `release`: to hand out what jobs left
    behind; None: whoever asks for it gets it. `run_on_s`: what runs goes on for so long after the deploy
    policy is not satisfied any more; 0: it is stopped at once.
    """

    deploy: Rule | None
    signoff: Rule | None
    delete: Rule | None = None
    update: Rule | Literal["as_deploy"] | None = "as_deploy"
    release: Rule | None = None
    validity_s: int = 72 * 3600  # an approval without own expiry counts this long
    run_on_s: int = 0
    author_may_approve: bool = False
    consumer_may_approve: bool = True

    def of(self, act: str) -> Rule | None:
        """The rule of an act."""
        if act == "update":
            return self.deploy if self.update == "as_deploy" else self.update
        rules = {
            "deploy": self.deploy,
            "signoff": self.signoff,
            "delete": self.delete,
            "release": self.release,
        }
        return rules[act]
