"""Hand-broken copies of the product, each one replaced piece of source, with the tests that must notice.

`old` stands exactly once in `file`; where the code moves on, the runner says that an entry is out of date.
Faults of others that apply here are marked with where they happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CONSENSUS: Final = ("tests/consensus",)
VERIFY: Final = ("tests/consensus/test_verify.py",)
TWINS: Final = ("tests/sim/test_twins.py::test_two_rounds_of_twins",)
CLAIMS: Final = ("tests/ledger/test_claims.py",)
MONEY: Final = ("tests/ledger/test_money.py", "tests/ledger/test_money_bounds.py")
OUTAGES: Final = ("tests/ledger/test_outage.py",)
FUNDS: Final = ("tests/ledger/test_funds.py",)
STANDING: Final = ("tests/ledger/test_standing.py",)
PENALTIES: Final = ("tests/ledger/test_penalties.py",)
APPROVALS: Final = ("tests/ledger/test_approvals.py",)
REPORTS: Final = ("tests/ledger/test_reports.py",)
MACHINE: Final = ("tests/ledger/test_machine.py",)
STORE: Final = ("tests/ledger/test_store.py", "tests/ledger/test_synced_writes.py")
SAFETY: Final = (
    "tests/node/test_safety_store.py",
    "tests/consensus/test_safety.py",
    "tests/consensus/test_first_counts.py",
)
ENGINE: Final = (
    "tests/node/test_narrow_gaps.py",
    "tests/node/test_engine.py",
    "tests/node/test_safety_store.py",
)
MEMPOOL: Final = (
    "tests/node/test_mempool.py",
    "tests/node/test_narrow_gaps.py",
    "tests/node/test_fair_queue.py",
    "tests/node/test_admission.py",
)
LEASE: Final = ("tests/node/test_lease.py",)
EXECUTOR: Final = ("tests/node/test_executor_verify.py", "tests/node/test_narrow_gaps.py")
ARTIFACTS: Final = ("tests/node/test_artifacts.py",)
RETENTION: Final = ("tests/ledger/test_retention.py",)
ROLLBACK: Final = ("tests/ledger/test_rollback.py",)
PRUNER: Final = ("tests/node/test_pruner.py",)
CONFIG: Final = ("tests/node/test_config.py", "tests/node/test_durable_files.py")
EPOCHS: Final = (
    "tests/ledger/test_epochs.py",
    "tests/ledger/test_light_epochs.py",
    "tests/node/test_epoch_ranges.py",
)
RULE_12: Final = ("tests/consensus/test_epochs.py",)
SEAT: Final = ("tests/node/test_seat.py", "tests/node/test_other_epochs.py", "tests/node/test_epochs.py")
GOSSIP: Final = ("tests/node/test_handlers.py",)
FOLLOW: Final = ("tests/node/test_follower.py", "tests/node/test_sync_plan.py")
GROUP: Final = ("tests/ledger/test_group.py",)
CHUNKS: Final = ("tests/ledger/test_snapshot.py",)
STAGING: Final = ("tests/ledger/test_staging.py",)
STATE_SYNC: Final = ("tests/node/test_state_sync.py", "tests/node/test_state_wire.py")
REPAIR: Final = ("tests/node/test_repair.py",)
LIGHT: Final = ("tests/ledger/test_light.py", "tests/ledger/test_tree.py")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: in `file`, `old` becomes `new`; one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    told_of: str = ""  # whose fault it was before


_M = Mutant
_CORE, _STATE = "consensus/core.py", "consensus/state.py"
_CLAIMS, _LEASES = "ledger/transition/claims.py", "ledger/transition/leases.py"
_FUNDS = "ledger/transition/funds.py"
_STANDING = "ledger/transition/standing.py"
_ESCROW, _MONEY = "ledger/transition/escrow.py", "ledger/transition/money.py"
_APPROVALS, _REPORTS = "ledger/transition/approvals.py", "ledger/transition/reports.py"
_LIFE, _SLOTS = "ledger/transition/lifecycle.py", "ledger/transition/slots.py"
_CHAIN, _MACHINE = "ledger/chain.py", "ledger/machine.py"
_LOG: Final = "ledger/store_log.py"
TORN_LOG: Final = ("tests/ledger/test_torn_log.py",)
_SAFETY, _ENGINE = "node/safety_store.py", "node/engine.py"
_POOL, _LEASE, _PROOF = "node/mempool.py", "node/executor/lease.py", "node/executor/verify.py"
_QUEUE = "node/fair_queue.py"
_CHECK, _FILES = "consensus/verify.py", "node/artifact_files.py"

MUTANTS: Final = (
    _M(
        "held_blocks_are_not_announced_on",
        "node/handlers.py",
        "return header.height > lowest and store.header(header.height) == encoded",
        "return False",
        GOSSIP,
    ),
    _M(
        "a_height_is_announced_on_with_every_certificate",
        "node/handlers.py",
        "        if header.height in self.announced:\n            return False\n",
        "",
        GOSSIP,
    ),
    _M(
        "validators_keep_approvals_to_themselves",
        "node/peer.py",
        "if (kind := topic_kind(tx)) in RARE_KINDS:",
        "if (kind := topic_kind(tx)) in ():",
        GOSSIP,
    ),
    _M(
        "forged_gossip_costs_nothing",
        "p2p/gossip.py",
        "if digest in self._unproved and not signature_validator(msg):",
        "if False:",
        ("tests/p2p/test_host.py",),
    ),
    # ---- consensus
    _M(
        "ancestors_in_the_wrong_order",
        "consensus/chain.py",
        "        steps.reverse()\n",
        "",
        CONSENSUS,
        "hotstuff, commit()",
    ),
    _M(
        "timer_starts_anew_with_each_view",
        "consensus/timers.py",
        "range(max(0, view - final_view - 1))",
        "range(0)",
        CONSENSUS,
        "TON Simplex.md 4.2",
    ),
    _M(
        "restart_forgets_certificates",
        _STATE,
        "        for certificate in state.certificates:\n            self._hold(certificate)\n",
        "",
        SAFETY,
        "Radix, timeout certificate ignored at restart",
    ),
    _M(
        "parent_need_not_be_notarized",
        _CORE,
        "            if header.parent_hash not in blocks:\n                return False\n",
        "",
        CONSENSUS,
    ),
    _M(
        "gaps_need_not_be_skipped",
        _CORE,
        "return all(self._passed(view, header) for view in range(header.parent_view + 1, header.view))",
        "return True",
        CONSENSUS,
    ),
    _M(
        "second_proposal_replaces_the_first",
        _CORE,
        "if state.proposal is None:  # [3]",
        "if state.own_notar is None or True:  # [3]",
        CONSENSUS,
    ),
    _M(
        "batches_need_not_be_held",
        _CORE,
        "        if held and not early:",
        "        if not early:",
        CONSENSUS,
    ),
    _M(
        "time_may_be_far_ahead",
        _CORE,
        "early = header.time_ms > self._wall_ms + TIME_AHEAD_MS_MAX or",
        "early =",
        CONSENSUS,
    ),
    _M("height_is_not_checked", _CORE, "header.height != parent.height + 1", "False", CONSENSUS),
    _M("time_may_go_back", _CORE, "if header.time_ms < parent.time_ms:", "if False:", CONSENSUS),
    _M(
        "state_root_is_not_checked",
        _CORE,
        "self.roots.get(header.state_height) != header.state_root",
        "False",
        CONSENSUS,
    ),
    _M(
        "a_batch_may_be_named_twice",
        _CORE,
        "if any(digest in earlier.batches for _, earlier in above for digest in header.batches):",
        "if False and above:",
        CONSENSUS,
    ),
    _M(
        "final_without_own_notar",
        _CORE,
        "if state.notar.statement.block == state.own_notar:",
        "if state.own_notar:",
        (*CONSENSUS, *TWINS),
    ),
    _M(
        "final_after_skip",
        _CORE,
        "state.own_final is not None or state.own_skip or state.notar is None:",
        "state.own_final is not None or state.notar is None:",
        CONSENSUS,
    ),
    _M(
        "skip_after_final",
        _CORE,
        "if state.own_skip or state.own_final is not None:\n            return\n        if state.refused",
        "if state.own_skip:\n            return\n        if state.refused",
        CONSENSUS,
    ),
    _M(
        "late_final_shortens_the_timeout",
        _CORE,
        'assert state.entered_ms is not None, "only a view entered has a timeout"',
        "state.timeout_ms = self.config.timing.timeout_ms(state.number, self.final_view)",
        CONSENSUS,
    ),
    _M("skip_before_the_timeout", _CORE, "self._now_ms >= self._skip_ms(state)", "True", CONSENSUS),
    _M(
        "standstill_is_never_noticed",
        _CORE,
        "if self._now_ms >= self.standstill_ms and not self.ended:  # [7]",
        "if False:  # [7]",
        (*CONSENSUS, *TWINS),
    ),
    _M(
        "votes_of_any_view_are_kept",
        _CORE,
        "if self.final_view < message.statement.view <= self.frontier + VIEW_WINDOW:",
        "if self.final_view < message.statement.view:",
        CONSENSUS,
    ),
    _M(
        "final_leaves_the_frontier",
        _STATE,
        "return view <= self.final_view or (",
        "return (",
        (*CONSENSUS, *TWINS),
    ),
    _M(
        "one_voter_counts_for_two_blocks",
        "consensus/votes.py",
        "    if state.voted.setdefault((kind, voter), statement.block) != statement.block:\n"
        "        return None\n",
        "",
        (*CONSENSUS, *TWINS),
    ),
    _M(
        "quorum_minus_one",
        "ledger/quorum.py",
        "return 2 * total // 3 + 1",
        "return 2 * total // 3",
        (*TWINS, *CONSENSUS),
    ),
    _M(
        "quorum_counts_heads_not_weight",
        "consensus/votes.py",
        "not validators.reached(votes)",
        "len(votes) < 2 * len(validators.members) // 3 + 1",
        ("tests/consensus", "tests/sim/test_sim.py"),
    ),
    _M(
        "memory_is_never_pruned",
        _STATE,
        "        self.views = {n: s for n, s in self.views.items() if n > self.chain.tip.view}\n",
        "",
        CONSENSUS,
    ),
    _M(
        "answers_are_not_limited_in_rate",
        _CORE,
        "if last is not None and self._now_ms < last + ANSWER_EVERY_MS:",
        "if False:",
        CONSENSUS,
    ),
    _M(
        "unasked_replies_are_taken",
        _CORE,
        "wanted = header is not None and message.digest in self.wants.wants",
        "wanted = header is not None",
        CONSENSUS,
    ),
    _M(
        "restored_notar_is_forgotten",
        _STATE,
        "            self._view(view).own_notar = block\n",
        "            pass\n",
        SAFETY,
    ),
    _M(
        "contradicting_records_are_taken",
        "consensus/safety.py",
        "    if both:\n",
        "    if False:\n",
        SAFETY,
    ),
    # ---- what peers send
    _M(
        "certificate_is_not_checked",
        _CHECK,
        "    rules.scheme.verify(rules.chain_id, rules.validators, certificate)\n",
        "",
        VERIFY,
    ),
    _M(
        "vote_signature_is_not_checked",
        _CHECK,
        "if not keys.verify_raw(rules.validators.members[sender].key, signed, message.signature):",
        "if False and signed:",
        VERIFY,
    ),
    _M(
        "anybody_may_propose",
        _CHECK,
        "if rules.validators.members[leader(rules.validators, header.view)].key != header.proposer:",
        "if False:",
        VERIFY,
    ),
    _M("a_vote_for_another_counts", _CHECK, "if message.voter != sender:", "if False:", VERIFY),
    _M(
        "certificate_of_too_few",
        "ledger/certificate.py",
        "if not validators.reached(signers):",
        "if not signers:",
        (*VERIFY, *LIGHT),
    ),
    _M(
        "skip_proofs_of_other_views",
        _CHECK,
        "or not header.parent_view < statement.view < header.view:",
        "or False:",
        VERIFY,
    ),
    _M(
        "reply_may_be_other_bytes",
        _CHECK,
        "    if header.hash != message.digest:\n",
        "    if False:\n",
        VERIFY,
    ),
    # ---- claims and leases
    _M("stale_term_is_taken", _CLAIMS, "if body.term != slot.term + 1:", "if False:", CLAIMS),
    _M(
        "term_is_used_again",
        _CLAIMS,
        "term=deal.slot(name).term + 1,",
        "term=max(1, deal.slot(name).term),",
        CLAIMS,
    ),
    _M(
        "closed_slots_can_be_claimed",
        _CLAIMS,
        "if env.state.get(key_open(deal.id, body.slot)) is None:",
        "if False:",
        CLAIMS,
    ),
    _M(
        "a_node_is_a_candidate_twice",
        _CLAIMS,
        "    if env.state.get(key) is not None:\n",
        "    if False:\n",
        CLAIMS,
    ),
    _M(
        "selection_does_not_check_again",
        _CLAIMS,
        "            _check_fit(deal, name, node, held)\n        except",
        "            pass\n        except",
        CLAIMS,
    ),
    _M(
        "lease_without_guard",
        _CLAIMS,
        "lease_until_ms = now + LEASE_MS + LEASE_GUARD_MS",
        "lease_until_ms = now + LEASE_MS",
        CLAIMS,
    ),
    _M(
        "capacity_is_not_checked",
        "ledger/fit.py",
        "needs.cpu_millis > node.cpu_millis",
        "0 > node.cpu_millis",
        CLAIMS,
    ),
    _M("replicas_share_a_node", "ledger/fit.py", 'if place.distinct != "none":', "if False:", CLAIMS),
    _M("price_is_not_capped", "ledger/fit.py", "if wanted > share:", "if False:", CLAIMS),
    _M("offers_never_end", "ledger/fit.py", "if node.valid_until_ms <= now_ms:", "if False:", CLAIMS),
    _M("anybody_renews", _LEASES, "if slot.holder != env.sender:", "if False:", CLAIMS),
    _M("renewal_with_an_old_term", _LEASES, "if item.term != slot.term:", "if False:", CLAIMS),
    _M(
        "the_old_lease_still_ends",
        _LEASES,
        '    env.state.delete(key_due(slot.lease_until_ms, "lease", rest))\n',
        "",
        CLAIMS,
    ),
    _M(
        "released_slots_are_free_at_once",
        _SLOTS,
        '        deal.set_slot(name, status="released", endpoints={})\n',
        '        deal.set_slot(name, status="released", endpoints={}, holder=b"")\n',
        APPROVALS,
    ),
    _M("stale_reports_count", _REPORTS, "if predicate.term != slot.term:", "if False:", REPORTS),
    _M("anybody_reports", _REPORTS, "if slot.holder != env.sender:", "if False:", REPORTS),
    _M(
        "any_status_follows_any",
        _REPORTS,
        'if status not in _NEXT.get(slot.status, ()) or (status == "succeeded" and workload.kind != "job"):',
        "if False:",
        REPORTS,
    ),
    _M(
        "attempts_have_no_end",
        _REPORTS,
        "if slot.attempts > workload.restart.attempts:",
        "if False:",
        REPORTS,
    ),
    # ---- money
    _M("balances_may_be_negative", _MONEY, "if held < amount:", "if False:", MONEY),
    _M("negative_transfers", _MONEY, "if not 0 < body.amount <= AMOUNT_MAX:", "if False:", MONEY),
    _M(
        "credit_replaces_the_balance",
        _MONEY,
        "Account(balance(env, account) + amount)",
        "Account(amount)",
        MONEY,
    ),
    _M("refund_leaves_the_escrow", _ESCROW, "        deal.set(escrow=0)\n", "", MONEY),
    _M("fee_is_paid_twice", _ESCROW, "    deal.set(fee_paid=True)\n", "", MONEY),
    _M(
        "the_kept_fee_is_spent",
        _ESCROW,
        "kept = 0 if deal.record.fee_paid else deal.manifest.terms.fee",
        "kept = 0",
        (*MONEY, "tests/ledger/test_machine_properties.py"),
    ),
    _M(
        "billed_past_the_end",
        _ESCROW,
        "    until_ms = min(until_ms, deal.ends_ms)\n",
        "",
        (*MONEY, "tests/ledger/test_orders.py", *REPORTS),
    ),
    _M(
        "missed_time_is_billed",
        _ESCROW,
        "    missed_ms = env.missed_ms - slot.missed_ms\n",
        "    missed_ms = 0\n",
        OUTAGES,
    ),
    _M("an_outage_breaks_leases", _LEASES, "        if not missed_ms:\n", "        if True:\n", OUTAGES),
    _M("an_outage_ends_terms", _LIFE, "    if missed_ms:\n", "    if False:\n", OUTAGES),
    _M(
        "penalties_come_from_nowhere",
        _ESCROW,
        "    debit(env, payer, amount)\n",
        "",
        PENALTIES,
    ),
    _M("a_withdrawn_word_counts_again", _STANDING, "word.made_ms <= former.made_ms", "False", STANDING),
    _M("anybody_certifies", _STANDING, "if not certifies(", "if False and not certifies(", STANDING),
    _M(
        "draining_nodes_keep_their_slots",
        _STANDING,
        "        release_slot(Deal.of(env, deployment), name)\n",
        "        pass\n",
        STANDING,
    ),
    _M("extensions_are_free", _FUNDS, "    debit(env, env.sender, wanted)\n", "", FUNDS),
    _M("the_same_extension_counts_twice", _FUNDS, "body.extended_s != record.extended_s", "False", FUNDS),
    _M("top_ups_without_bound", _FUNDS, "0 < body.amount <= left", "0 < body.amount", FUNDS),
    _M("broken_leases_cost_nothing", _LEASES, "            penalize(deal, name)\n", "", PENALTIES),
    _M(
        "unpaid_deployments_run_on",
        _LEASES,
        "    if not bill(deal, slot.name, env.time_ms):",
        "    if bill(deal, slot.name, env.time_ms) is None:",
        MONEY,
    ),
    # ---- approvals
    _M("excluded_signers_count", _APPROVALS, "if signer in _excluded(deal):", "if False:", APPROVALS),
    _M("wrong_role_counts", _APPROVALS, "    if role not in held:\n", "    if False:\n", APPROVALS),
    _M(
        "approval_of_another_manifest",
        _APPROVALS,
        "if document.subject != deal.record.manifest:",
        "if False:",
        APPROVALS,
    ),
    _M(
        "a_document_counts_again",
        _APPROVALS,
        "if env.state.get(key_document(deal.id, document.id)) is not None:",
        "if False:",
        APPROVALS,
    ),
    _M(
        "an_older_grant_beats_a_rejection",
        _APPROVALS,
        "if former is not None and predicate.made_ms < former.made_ms:",
        "if False:",
        APPROVALS,
    ),
    _M(
        "revocation_changes_nothing",
        _APPROVALS,
        "    elif not waiting:\n        suspend(",
        "    elif False:\n        suspend(",
        APPROVALS,
    ),
    _M(
        "grants_never_expire",
        "ledger/policy.py",
        "(not approval.expires_ms or approval.expires_ms > now_ms)",
        "True",
        (*APPROVALS, "tests/ledger/test_policy.py"),
    ),
    _M(
        "suspended_slots_run_on",
        _LIFE,
        'deal.emit("deployment.suspended", reason=reason)\n    for name in deal.record.slots:\n'
        "        release_slot(deal, name)\n",
        'deal.emit("deployment.suspended", reason=reason)\n',
        APPROVALS,
    ),
    # ---- the state machine
    _M(
        "a_transaction_counts_twice",
        _MACHINE,
        "    if state.get(seen) is not None:\n",
        "    if False:\n",
        MACHINE,
    ),
    _M("expired_transactions_count", _MACHINE, "if tx.expires < context.height:", "if False:", MACHINE),
    _M(
        "far_expiry_is_taken",
        _MACHINE,
        "if tx.expires > context.height + EXPIRY_BLOCKS_MAX:",
        "if False:",
        MACHINE,
    ),
    _M(
        "refused_halfway_stays",
        _MACHINE,
        "    overlay = Overlay(state)\n    env = _env(overlay, context, tx.tx.sender, tx.id)",
        "    overlay = Overlay(state)\n    env = _env(state, context, tx.tx.sender, tx.id)  # type: ignore",
        MACHINE,
    ),
    _M(
        "replay_ids_go_too_early",
        _MACHINE,
        "if key >= _SEEN + be(height + 1):",
        "if key >= _SEEN + be(height + 9):",
        MACHINE,
    ),
    # ---- the chain on disk
    _M(
        "any_block_is_committed",
        _CHAIN,
        "if header.height != tip.height + 1 or header.parent_hash != tip.hash:",
        "if False:",
        STORE,
    ),
    _M(
        "commit_is_two_writes",
        _CHAIN,
        "            self._kv.write(puts, deletes, sync=True)\n",
        "            tip_only = {TIP_KEY: puts.pop(TIP_KEY)}\n"
        "            self._kv.write(tip_only, (), sync=True)\n"
        "            self._kv.write(puts, deletes, sync=True)\n",
        (*ENGINE, *STORE),
        "any store that writes its tip first",
    ),
    _M(
        "commit_is_not_synced",
        _CHAIN,
        "            self._kv.write(puts, deletes, sync=True)\n",
        "            self._kv.write(puts, deletes, sync=False)\n",
        (*STORE, *ENGINE),
    ),
    _M(
        "torn_store_is_opened",
        _CHAIN,
        "        if root != tip.root or (tip.height and",
        "        if False and (tip.height and",
        STORE,
    ),
    _M(
        "failed_write_moves_the_reader",
        _CHAIN,
        "            self._window.pop()\n",
        "            pass\n",
        STORE,
    ),
    _M(
        "sums_of_tables_are_not_checked",
        "ledger/store.py",
        "reverse=reverse, verify_checksums=True)",
        "reverse=reverse)",
        ("tests/ledger/test_torn_store.py",),
    ),
    _M("torn_log_is_cut_whatever_follows", _LOG, "if border < end:", "if True:", TORN_LOG),
    _M("zeros_before_a_record_are_passed_over", _LOG, 'strip(b"\\0"):', "strip(data):", TORN_LOG),
    _M("write_may_end_in_zeros", "ledger/store.py", "batch.delete(END_KEY)", "pass", TORN_LOG),
    _M("foreign_store_is_opened", "ledger/store.py", "if found_owner != owner.encode():", "if False:", STORE),
    _M(
        "newer_format_is_opened",
        "ledger/store.py",
        "if found_format != str(format_).encode():",
        "if False:",
        STORE,
    ),
    # ---- sign state and engine
    _M("persist_is_forgotten", _ENGINE, "if ready.records or ready.certificates:", "if False:", ENGINE),
    _M("votes_are_not_synced", _SAFETY, "sync=bool(puts))", "sync=False)", ENGINE),
    _M(
        "sent_before_it_is_on_disk",
        _ENGINE,
        "            if ready.records or ready.certificates:\n",
        "            for send in ready.send:\n                self._send(send)\n"
        "            if ready.records or ready.certificates:\n",
        ENGINE,
    ),
    _M(
        "pruned_before_commit",
        _ENGINE,
        "            self._commit(ready, queue)\n",
        "            if ready.prune_view:\n                self.safety.prune(ready.prune_view)\n"
        "            self._commit(ready, queue)\n",
        ENGINE,
    ),
    _M(
        "skip_and_final_share_a_place",
        _SAFETY,
        'return be(view) + bytes([kind]) + (be(epoch) if epoch else b"")',
        'return be(view) + b"\\1" + (be(epoch) if epoch else b"")',
        ENGINE,
    ),
    _M(
        "batches_of_votes_are_not_kept",
        _SAFETY,
        "                        puts[_BATCH + digest] = data\n",
        "                        pass\n",
        ENGINE,
    ),
    _M("the_floor_is_not_kept", _SAFETY, "floor = max(view, self.floor)", "floor = 0", SAFETY),
    _M(
        "votes_with_an_older_chain",
        _ENGINE,
        "            if self.notary.store.tip.view >= floor or self.core.ended:\n",
        "            if True:\n",
        ENGINE,
    ),
    # ---- epochs
    _M(
        "the_tail_is_committed",
        "consensus/epochs.py",
        "return path[: place + 1], tuple(above.encode() for _, above in path[place + 1 :])",
        "return path, ()",
        RULE_12,
    ),
    _M(
        "the_core_goes_on_after_its_epoch",
        _CORE,
        "            self.ended = is_ending(header, self.config.validators)\n            self._out.commit",
        "            self._out.commit",
        RULE_12,
    ),
    _M("tail_with_batches_is_voted_for", _CORE, "if is_tail and (", "if False and (", RULE_12),
    _M(
        "the_tail_grows",
        _CORE,
        "if is_tail and (differs or self._is_tail(parent)):",
        "if is_tail and differs:",
        RULE_12,
    ),
    _M(
        "leader_builds_on_the_tail",
        _CORE,
        "if in_tail and self._is_tail(parent):",
        "if False:",
        RULE_12,
    ),
    _M(
        "any_notarized_view_is_passed_over",
        _STATE,
        "if state.notar is None or not is_ending(header, validators):\n            return False\n",
        "if state.notar is not None:\n            return True\n",
        RULE_12,
    ),
    _M(
        "a_block_beside_the_tail_is_passed_over",
        _STATE,
        "return beside is not None and beside.parent_hash == header.parent_hash",
        "return beside is not None",
        RULE_12,
    ),
    _M(
        "leader_fills_the_tail",
        _CORE,
        "batches = [] if in_tail else self._fresh(base)",
        "batches = self._fresh(base)",
        RULE_12,
    ),
    _M(
        "any_next_set_is_voted_for",
        _CORE,
        "if header.next_validators != self._next_validators(header.state_height):",
        "if False:",
        RULE_12,
    ),
    _M(
        "a_change_is_not_delayed",
        _STATE,
        "if self.change is not None and self.change.since <= state_height:",
        "if self.change is not None:",
        RULE_12,
    ),
    _M(
        "promises_bind_in_the_next_epoch",
        "consensus/safety.py",
        "if record.epoch != epoch or record.view <= tip_view:",
        "if record.view <= tip_view:",
        (*RULE_12, *SAFETY),
    ),
    _M(
        "certificates_of_an_ended_epoch_come_back",
        "consensus/safety.py",
        "c.statement.epoch == epoch and c.statement.view > tip_view",
        "c.statement.view > tip_view",
        (*RULE_12, *SAFETY),
    ),
    _M(
        "have_maps_begin_at_genesis",
        _CORE,
        "base = self.final.statement.view if self.final else self.chain.tip.view",
        "base = self.final.statement.view if self.final else 0",
        RULE_12,
    ),
    _M(
        "a_lost_proposal_is_not_repeated",
        _CORE,
        "replies.append(self._proposal(own.proposal))",
        "pass",
        RULE_12,
    ),
    _M(
        "sign_state_forgets_the_epoch",
        _SAFETY,
        '(be(epoch) if epoch else b"")',
        'b""',
        SAFETY,
    ),
    _M(
        "the_old_epochs_certificate_counts",
        "node/voter.py",
        "if final is not None and final.statement.epoch != config.validators.epoch:",
        "if False:",
        SEAT,
    ),
    _M(
        "waiting_batches_are_forgotten_at_a_change",
        _ENGINE,
        "for waiting in list(self.mempool.batches.values()):",
        "for waiting in ():",
        SEAT,
    ),
    _M(
        "strangers_speak_of_any_epoch",
        "node/handlers.py",
        "if epoch > ours or (epoch < ours and self._voted(peer_id, epoch)):",
        "if epoch != ours:",
        SEAT,
    ),
    _M(
        "who_left_is_answered_each_time",
        "node/other_epochs.py",
        "if last_ms is not None and self.now_ms() < last_ms + ANSWER_EVERY_MS:",
        "if False:",
        SEAT,
    ),
    _M(
        "links_are_not_sorted_anew",
        "node/handlers.py",
        "        self.members.clear()\n",
        "",
        SEAT,
    ),
    _M(
        "a_key_that_had_a_seat_may_start_without_memory",
        "node/run.py",
        "return any(members.index(validator) is not None for members in trust.sets)",
        "return False",
        SAFETY,
    ),
    # ---- mempool
    _M("sender_quota_is_gone", _POOL, "used.txs >= MEMPOOL_SENDER_TXS_MAX", "False", MEMPOOL),
    _M("pool_has_no_end", _POOL, "if len(self.places) >= MEMPOOL_TXS_MAX or", "if", MEMPOOL),
    _M(
        "maker_share_is_gone",
        _POOL,
        "if self.by_maker.get(maker, 0) + size > MEMPOOL_MAKER_BYTES_MAX:",
        "if False:",
        MEMPOOL,
    ),
    _M("pending_is_bundled_twice", _QUEUE, "        self.remove(tx.id)\n", "", MEMPOOL),
    _M("nobody_takes_turns", _QUEUE, "self._turns.served(cost)", "self._turns.served(0)", MEMPOOL),
    _M("queues_have_no_end_in_time", _POOL, "if wait_ms > QUEUE_MS_MAX:", "if False:", MEMPOOL),
    _M(
        "replays_are_queued",
        _POOL,
        "        if tx.id in self.places:\n            return False\n",
        "",
        MEMPOOL,
    ),
    _M(
        "final_transactions_are_queued",
        _POOL,
        "if record(key_seen(checked.tx.expires, checked.id)) is not None:",
        "if False:",
        MEMPOOL,
    ),
    _M(
        "committed_bytes_are_still_counted",
        _POOL,
        "            self.size_bytes -= size\n            self.by_maker",
        "            self.by_maker",
        MEMPOOL,
    ),
    # ---- executor
    _M(
        "starts_with_little_lease",
        _LEASE,
        "return self.left_ms(now_ms) >= START_LEFT_MS",
        "return True",
        LEASE,
    ),
    _M(
        "runs_past_its_lease",
        _LEASE,
        "return self.left_ms(now_ms) <= 0",
        "return self.left_ms(now_ms) <= -9000",
        LEASE,
    ),
    _M(
        "asking_moves_the_deadline",
        _LEASE,
        "return LeaseClock(self.deadline_ms, max(self.asked_ms, sent_ms))",
        "return LeaseClock(sent_ms + LEASE_MS, max(self.asked_ms, sent_ms))",
        LEASE,
    ),
    _M(
        "times_of_blocks_are_believed",
        _LEASE,
        "return max(0, expected_ms - block_ms)",
        "return 0",
        (*LEASE, "tests/sim/test_market_leases.py"),
    ),
    _M(
        "late_stops_take_their_time",
        _LEASE,
        "return max(0, min(STOP_GRACE_MS, spare_ms))",
        "return STOP_GRACE_MS",
        LEASE,
    ),
    _M(
        "status_of_the_ledger_is_believed",
        _PROOF,
        "    if not decision.satisfied:\n",
        "    if False:\n",
        EXECUTOR,
    ),
    _M("order_signature_is_not_checked", _PROOF, "    if not verify_tx(tx):\n", "    if False:\n", EXECUTOR),
    _M("expansion_is_not_checked", _PROOF, "    if expanded != data:\n", "    if False:\n", EXECUTOR),
    _M(
        "forged_approval_records_are_believed",
        _PROOF,
        "        if problem:\n",
        "        if False:\n",
        EXECUTOR,
    ),
    # ---- files and proofs
    _M(
        "chunks_are_not_checked",
        _FILES,
        "if hashlib.sha256(data).digest() != self.chunks[index]:",
        "if False:",
        ARTIFACTS,
    ),
    _M(
        "torn_chunks_are_believed",
        _FILES,
        "self._map[index] = hashlib.sha256(data).digest() == self.chunks[index]",
        "self._map[index] = bool(data)",
        ARTIFACTS,
    ),
    _M(
        "the_whole_is_not_checked",
        _FILES,
        "if self.missing() or whole.hexdigest() != self.sha256:",
        "if self.missing():",
        ARTIFACTS,
    ),
    _M(
        "rename_without_a_synced_folder",
        "node/home.py",
        "        os.replace(fresh, file)\n        sync_folder(file.parent)\n",
        "        os.replace(fresh, file)\n",
        CONFIG,
        "CometBFT, rename without fsync of the directory",
    ),
    _M(
        "renamed_before_it_is_synced",
        "node/home.py",
        "            os.fsync(stream.fileno())\n        os.replace(fresh, file)\n",
        "        os.replace(fresh, file)\n",
        CONFIG,
    ),
    _M(
        "state_proof_is_not_checked",
        "ledger/light.py",
        "if not tree.verify(header.state_root, proof.key, proof.value, proof.proof):",
        "if False:",
        LIGHT,
    ),
    _M(
        "notar_proves_finality",
        "ledger/light.py",
        "if statement.kind is not VoteKind.FINAL:",
        "if False:",
        LIGHT,
    ),
    # ---- epochs: changes of the validators, and the way to them
    _M(
        "change_by_one_short_of_a_quorum",
        "ledger/epochs.py",
        "if not now.reached(signers):",
        "if not now.reached([*signers, 3]):",
        EPOCHS,
    ),
    _M(
        "change_signatures_are_not_checked",
        "ledger/epochs.py",
        "chain_id, message, signature):\n            raise",
        "chain_id, message, signature) and False:\n            raise",
        EPOCHS,
    ),
    _M(
        "change_counts_a_signer_twice",
        "ledger/epochs.py",
        "if signers != sorted(set(signers)) or any(not 0 <= index < len(now.members) for index in signers):",
        "if any(not 0 <= index < len(now.members) for index in signers):",
        EPOCHS,
    ),
    _M(
        "change_of_any_epoch",
        "ledger/epochs.py",
        "if found.epoch != now.epoch + 1:",
        "if found.epoch <= now.epoch:",
        EPOCHS,
    ),
    _M(
        "change_keeps_the_suspended",
        "ledger/epochs.py",
        "        if is_suspended(member.key):",
        "        if False:",
        EPOCHS,
    ),
    _M(
        "second_change_replaces_the_first",
        "ledger/transition/validators.py",
        "if env.state.get(KEY_NEXT_VALIDATORS) is not None:",
        "if False:",
        EPOCHS,
    ),
    _M(
        "boundary_takes_any_pending_set",
        "ledger/epochs.py",
        "if data is None or validators_hash(data) != header.next_validators:",
        "if data is None:",
        EPOCHS,
    ),
    _M(
        "boundary_leaves_the_pending_set",
        "ledger/epochs.py",
        "    state.delete(KEY_NEXT_VALIDATORS)\n",
        "",
        EPOCHS,
    ),
    _M(
        "past_sets_are_kept_for_ever",
        "ledger/epochs.py",
        "if before.epoch >= EVIDENCE_EPOCHS_MAX:",
        "if False:",
        EPOCHS,
    ),
    _M(
        "evidence_by_todays_set",
        "ledger/transition/validators.py",
        "members = epochs.past(env.state, epoch)",
        "members = epochs.current(env.state)",
        EPOCHS,
    ),
    _M(
        "epoch_proof_is_not_kept",
        "ledger/chain.py",
        "                puts[key] = proof\n",
        "                pass\n",
        EPOCHS,
    ),
    _M(
        "boundary_without_its_tail",
        "ledger/chain.py",
        "epoch_log.entry(data.header, parent, data.path, data.certificate, next_set)",
        "epoch_log.entry(data.header, parent, (), data.certificate, next_set)",
        EPOCHS,
    ),
    _M(
        "boundary_without_finality",
        "ledger/chain.py",
        "if is_ending(header) and (data.certificate is None or len(data.path) > FINALITY_PATH_MAX):",
        "if False:",
        EPOCHS,
    ),
    _M(
        "rollback_leaves_ended_epochs",
        "ledger/retention.py",
        "        if is_ending(header):\n            keys.append(epoch_key(header.epoch))\n",
        "",
        EPOCHS,
    ),
    _M(
        "light_next_set_is_not_compared",
        "ledger/light.py",
        "if validators_hash(proof.next_set) != header.next_validators or found.epoch != header.epoch + 1:",
        "if found.epoch != header.epoch + 1:",
        EPOCHS,
    ),
    _M(
        "light_takes_a_block_of_the_tail_for_the_boundary",
        "ledger/light.py",
        "if not is_child or parent.epoch != header.epoch or is_ending(parent):",
        "if not is_child or parent.epoch != header.epoch:",
        EPOCHS,
    ),
    _M(
        "light_takes_any_header_for_a_boundary",
        "ledger/light.py",
        "        if not is_ending(header):\n",
        "        if False:\n",
        EPOCHS,
    ),
    _M(
        "light_tail_may_hold_batches",
        "ledger/light.py",
        "if is_ending(last) and (child.batches or child.next_validators != last.next_validators):",
        "if is_ending(last) and child.next_validators != last.next_validators:",
        EPOCHS,
    ),
    _M(
        "light_takes_blocks_above_a_boundary",
        "ledger/light.py",
        "if place < len(self.ends) and header.height > self.ends[place].height:",
        "if False:",
        EPOCHS,
    ),
    _M(
        "light_epochs_certificate_is_not_checked",
        "ledger/light.py",
        "header = verify_final(self.chain_id, self.latest, proof.finality)",
        "header = decode_header(proof.finality.header)",
        EPOCHS,
    ),
    _M(
        "light_trust_never_expires",
        "ledger/light.py",
        "if self.since_ms is not None and (now_ms is None or now_ms - self.since_ms > self.period_ms):",
        "if False:",
        EPOCHS,
    ),
    _M(
        "range_goes_on_behind_a_boundary",
        "node/notary.py",
        "            if is_ending(header):\n                break\n",
        "",
        EPOCHS,
    ),
    _M(
        "range_is_judged_by_the_newest_set",
        "node/notary.py",
        "self.trust.validators_at(height + 1)",
        "self.validators",
        EPOCHS,
    ),
    _M(
        "sets_are_forgotten_at_a_restart",
        "node/notary.py",
        "        trust.resume(found)\n    return trust",
        "        break\n    return trust",
        EPOCHS,
    ),
    # ---- retention and rollback
    _M(
        "retention_drops_a_shared_batch",
        "ledger/retention.py",
        'return any(key != mine for key, _ in self._kv.scan(b"u" + digest, limit=2))',
        "return False",
        RETENTION,
    ),
    _M(
        "retention_forgets_live_deployments",
        "ledger/retention.py",
        "and any(map(self._lives, receipt.deployments))",
        "and False",
        RETENTION,
    ),
    _M(
        "retention_keeps_what_has_ended",
        "ledger/retention.py",
        "return record.ended_ms == 0 or record.ends_ms != 0",
        "return True",
        RETENTION,
    ),
    _M(
        "retention_leaves_events",
        "ledger/retention.py",
        'deletes = [b"c" + be(height), *self._events(height)]',
        'deletes = [b"c" + be(height)]',
        RETENTION,
    ),
    _M(
        "retention_first_height_is_not_written",
        "ledger/retention.py",
        "            puts = {**puts, FIRST_KEY: be(above)}\n",
        "            puts = {**puts}\n",
        RETENTION,
    ),
    _M(
        "rollback_newest_word_counts",
        "ledger/rollback.py",
        "for entry in reversed(entries):",
        "for entry in entries:",
        ROLLBACK,
    ),
    _M(
        "rollback_without_its_window",
        "ledger/rollback.py",
        "if height == found else 0",
        "if entries else 0",
        ROLLBACK,
    ),
    _M(
        "rollback_state_is_not_checked",
        "ledger/rollback.py",
        "if window.at(target, tip.height).root() != new_tip.root:",
        "if False:",
        ROLLBACK,
    ),
    _M(
        "rollback_leaves_blocks",
        "ledger/rollback.py",
        'deletes += [*retention.erase(height), b"R" + be(height)]',
        'deletes += [b"R" + be(height)]',
        ROLLBACK,
    ),
    _M(
        "pruner_drops_the_replay_window",
        "node/pruner.py",
        "count = min(wanted, above - self.keep_blocks - first)",
        "count = min(wanted, above - 1 - first)",
        PRUNER,
    ),
    _M(
        "pruned_ranges_are_empty",
        "node/ranges.py",
        "if request.first < store.first_height:",
        "if False:",
        PRUNER,
    ),
    _M(
        "pruned_events_are_silent",
        "node/event_log.py",
        "if self.store.first_height > 1 and last < held:",
        "if False:",
        PRUNER,
    ),
    # Catching up, states in chunks, a wrong state.
    _M("group_is_not_synced", "ledger/group.py", "deletes, sync=True)", "deletes, sync=False)", GROUP),
    _M(
        "group_is_written_at_once",
        "ledger/group.py",
        "        if self._layers is None:\n            self.base.write(puts, deletes, sync)\n",
        "        if True:\n            self.base.write(puts, deletes, sync)\n",
        GROUP,
    ),
    _M(
        "group_hides_its_own_writes",
        "ledger/group.py",
        "            if layer is not None:\n                return layer.get(key)\n",
        "",
        GROUP,
    ),
    _M("chunk_root_is_not_compared", "ledger/snapshot.py", "if found != root:", "if False:", CHUNKS),
    _M(
        "chunk_takes_pairs_of_elsewhere",
        "ledger/snapshot.py",
        "if any(not tree.is_below(index, place) for place, _ in rows):",
        "if False:",
        CHUNKS,
    ),
    _M(
        "chunk_takes_a_pair_twice",
        "ledger/snapshot.py",
        "if any(one[0] >= other[0] for one, other in pairwise(rows)):",
        "if any(one[0] > other[0] for one, other in pairwise(rows)):",
        CHUNKS,
    ),
    _M(
        "chunk_hides_what_stands_beside",
        "ledger/snapshot.py",
        "        if sibling:\n            yield index ^ 1\n",
        "        if sibling and index & 1:\n            yield index ^ 1\n",
        CHUNKS,
    ),
    _M(
        "chunk_is_cut_to_the_right_alone",
        "ledger/snapshot.py",
        "index = 2 * index + (self._top(2 * index)[0] == tree.EMPTY)",
        "index = 2 * index + 1",
        CHUNKS,
    ),
    _M(
        "frozen_state_is_of_today",
        "ledger/views.py",
        "if key[1:] not in overwritten and not key.startswith(without, 1):",
        "if not key.startswith(without, 1):",
        STAGING,
    ),
    _M(
        "frozen_state_forgets_the_oldest_word",
        "ledger/views.py",
        "                found.setdefault(key, value)\n",
        "                found[key] = value\n",
        STAGING,
    ),
    _M(
        "staging_takes_a_chunk_twice",
        "ledger/staging.py",
        "if asked not in self._todo or not is_within(proved.place, asked):",
        "if not is_within(proved.place, asked):",
        STAGING,
    ),
    _M(
        "staging_is_finished_too_early",
        "ledger/staging.py",
        "if self._todo or not status.header:",
        "if not status.header:",
        STAGING,
    ),
    _M(
        "staging_does_not_compare_the_root",
        "ledger/staging.py",
        "if found != status.root:",
        "if False:",
        STAGING,
    ),
    _M(
        "incomplete_store_takes_the_place",
        "ledger/store.py",
        "    if is_complete:\n        adopt_next(path)\n",
        "    adopt_next(path)\n",
        STAGING,
    ),
    _M(
        "interrupted_change_of_stores_is_not_finished",
        "ledger/store.py",
        "        finish_adoption(path, owner)\n",
        "",
        STAGING,
    ),
    _M(
        "liar_is_asked_on",
        "node/sync_plan.py",
        "source.rest_until_s = now_s + FOLLOW_LIED_REST_S",
        "source.rest_until_s = now_s",
        FOLLOW,
    ),
    _M(
        "staller_holds_up_all",
        "node/sync_plan.py",
        "        return self._hedge(tip, now_s)\n",
        "        return None\n",
        FOLLOW,
    ),
    _M(
        "pieces_have_no_bound",
        "node/sync_plan.py",
        "if len(self._asks) + len(self._held) < PIECES_MAX:",
        "if True:",
        FOLLOW,
    ),
    _M(
        "follower_takes_another_chain",
        "node/follower.py",
        "        if header.parent_hash != tip.hash:\n",
        "        if False:\n",
        FOLLOW,
    ),
    _M(
        "state_is_taken_on_a_peers_word",
        "node/state_sync.py",
        "                        await trio.to_thread.run_sync(partial(trust.final, offer.anchor))\n",
        "",
        STATE_SYNC,
    ),
    _M(
        "chunk_liar_is_asked_on",
        "node/state_fetch.py",
        "        self.banned.add(peer_id)\n",
        "",
        STATE_SYNC,
    ),
    _M(
        "state_sync_forgets_the_replay_guard",
        "node/state_fetch.py",
        "                found.append(key_seen(tx.tx.expires, tx.id))\n",
        "                pass\n",
        STATE_SYNC,
    ),
    _M(
        "damaged_state_is_offered",
        "node/snapshots.py",
        "if spool.shelf.root != snapshot.root:",
        "if False:",
        STATE_SYNC,
    ),
    _M(
        "state_is_offered_without_its_replay_window",
        "node/snapshots.py",
        "if max(1, snapshot.height - EXPIRY_BLOCKS_MAX + 1) < self.store.first_height:",
        "if False:",
        STATE_SYNC,
    ),
    _M(
        "wrong_state_executes_on",
        "node/notary.py",
        "            raise StateDiffers(header.state_height)\n",
        "            return\n",
        REPAIR,
    ),
    _M(
        "wrong_state_votes_on",
        "node/peer.py",
        "                    self.seat.stopped = True\n",
        "                    pass\n",
        REPAIR,
    ),
    _M(
        "repair_never_gives_up",
        "node/repair.py",
        "            if self.done >= REPAIRS_MAX:\n",
        "            if False:\n",
        REPAIR,
    ),
    _M(
        "two_chains_do_not_stop_a_validator",
        "node/engine.py",
        'if alarm == "final_off_chain":',
        "if False:",
        REPAIR,
    ),
)
