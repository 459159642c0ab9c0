"""The tree of commands. Each is loaded when it is called, so that a client command starts fast."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from cyclopts import App, Parameter

from node.cli.context import GLOBAL_FLAGS
from node.version import VERSION

_EPILOGUE: Final = "Global options, before or after the command: " + " ".join(
    f"{flag} ({variable}): {text}" for flag, (variable, text) in GLOBAL_FLAGS.items()
)


def _told_default(value: object) -> Any:
    return None if value is None or value is False or value in ("", ()) else str(value)


# No --empty-… and --no-… beside what is asked for, and no word of a default that is nothing.
_PARAMETERS: Final = Parameter(negative_iterable=(), negative_bool=(), show_default=_told_default)

app: Final = App(
    name="gridpact",
    version=VERSION,
    help="Peer-to-peer deployment of approved IT systems.",
    help_epilogue=_EPILOGUE,
    help_format="plaintext",
    default_parameter=_PARAMETERS,
)

# (words, "module:function", what it does)
COMMANDS: Final = (
    ("init", "peer:init", "Make a home: keys, settings and genesis."),
    ("start", "peer:start", "Run the peer of a home until it is stopped."),
    ("testnet init", "testnet:init", "Write homes, keys and genesis of a local network."),
    ("testnet up", "testnet:up", "Start a local network and wait until it is ready."),
    ("testnet start", "testnet:start", "Start peers of the network that are down."),
    ("testnet stop", "testnet:stop", "Stop some peers of the network."),
    ("testnet status", "testnet:status", "Show its peers."),
    ("testnet logs", "testnet:logs", "Show a peer's log."),
    ("testnet down", "testnet:down", "Stop the whole network."),
    ("keys new", "keys:new", "Make an account key."),
    ("keys list", "keys:list_keys", "List the account keys."),
    ("keys show", "keys:show", "Show a key's public half."),
    ("keys import", "keys:import_key", "Take over a key from a file."),
    ("keys encrypt", "keys:encrypt", "Encrypt a key's file under a passphrase."),
    ("keys change", "keys:change", "Give an encrypted key another passphrase."),
    ("keys decrypt", "keys:decrypt", "Write an encrypted key's file in the clear again."),
    ("keys ssh", "keys:ssh", "Show an SSH key's public half as orders name it."),
    ("status", "chain:status", "Show the peer's status."),
    ("peers", "peers:list_peers", "Show neighbours and bans."),
    ("peers list", "peers:list_peers", "Show neighbours and bans, with scores and reasons."),
    ("peers add", "peers:add", "Hold a connection to a peer for ever."),
    ("peers remove", "peers:remove", "Forget a peer and end its connection."),
    ("peers ban", "peers:ban", "Refuse a peer until it is unbanned."),
    ("peers unban", "peers:unban", "Lift a ban and forgive."),
    ("validators", "validators:show_all", "Show the validators in force, and the next set."),
    ("validators propose", "validators:propose", "Write a change of the validators to a file."),
    ("validators sign", "validators:sign", "Sign a change as a validator."),
    ("validators show", "validators:show", "Say what a change would do, and who has signed it."),
    ("validators submit", "validators:submit", "Send a change that a BFT quorum has signed."),
    ("query", "query:query", "Read a record of the state, with its proof."),
    ("verify", "verify:verify", "Check a proof file with nothing but the genesis."),
    ("tx show", "tx:show", "Show a final transaction."),
    ("tx send", "tx:send", "Send a signed transaction from a file."),
    ("tx transfer", "tx:transfer", "Move credits to another account."),
    ("contract init", "contracts:init", "Write a contract to start from."),
    ("contract validate", "contracts:validate", "Check a contract and say what is wrong, and where."),
    ("contract build", "contracts:build", "Hash a contract's artifacts and pin them."),
    ("contract publish", "contracts:publish", "Sign a built contract and publish it."),
    ("contract list", "contracts:list_contracts", "List the published contracts."),
    ("contract show", "contracts:show", "Show a published contract."),
    ("contract search", "contract_tools:search", "Find published contracts."),
    ("contract import", "contract_tools:import_file", "Write a draft of a contract from a compose file."),
    ("contract diff", "contract_tools:diff", "Show what differs between two contracts."),
    ("contract deprecate", "contract_tools:deprecate", "Warn of a published version."),
    ("contract revoke", "contract_tools:revoke", "Take a published version back for ever."),
    ("artifact list", "artifacts:list_artifacts", "Show files that the peer holds, and those on their way."),
    ("artifact add", "artifacts:add", "Give the peer a file."),
    ("artifact fetch", "artifacts:fetch", "Have the peer fetch a file from others."),
    ("artifact drop", "artifacts:drop", "Have the peer drop a file that nothing uses."),
    ("deploy", "deployments:deploy", "Plan a deployment with the 3bot, then order it."),
    ("deployment list", "deployments:list_deployments", "List the deployments."),
    ("deployment show", "deployments:show", "Show a deployment with its approvals, slots and receipts."),
    ("deployment results", "results:results", "Fetch and check what a deployment's jobs wrote."),
    ("deployment receipts", "receipts:receipts", "Write what nodes signed, for stock tools to check."),
    ("deployment signatures", "signatures:signatures", "Write what was signed, for stock tools to check."),
    ("deployment cancel", "deployments:cancel", "Stop a deployment, settle and refund."),
    ("deployment update", "updates:update", "Move a running deployment to another manifest."),
    ("deployment update-cancel", "updates:update_cancel", "Stop an update; what it changed is reverted."),
    ("deployment update-resume", "updates:update_resume", "Go on with an update that is held."),
    ("deployment top-up", "funds:top_up", "Put credits on top of a deployment's budget."),
    ("deployment extend", "funds:extend", "Extend a deployment's term."),
    ("deployment dispute", "disputes:dispute", "Put a complaint about a deployment on record."),
    ("deployment close-dispute", "disputes:close_dispute", "Close a dispute that you opened."),
    ("logs", "logs:logs", "Show what a slot's workload wrote, to its consumer alone."),
    ("secrets set", "secrets:set_values", "Give the 3bot secrets of a deployment."),
    ("secrets list", "secrets:list_secrets", "Show which secrets of a deployment the 3bot has."),
    ("approve", "approvals:approve", "Sign an approval of a deployment, or its sign-off."),
    ("reject", "approvals:reject", "Sign a rejection of a deployment."),
    ("revoke", "approvals:revoke", "Withdraw an approval."),
    ("org list", "organisations:list_all", "List the organisations."),
    ("org show", "organisations:show", "Show an organisation and its deeds, or a deed in a file."),
    ("org found", "organisations:found", "Write the founding deed of an organisation to a file."),
    ("org change", "organisations:change", "Write a change of members, weights or roles to a file."),
    ("org rotate", "organisations:rotate", "Write the change of your own key to a file."),
    ("org dissolve", "organisations:dissolve", "Write the end of an organisation to a file."),
    ("org sign", "deeds:sign", "Sign a deed as a member."),
    ("org submit", "deeds:submit", "Send a deed that enough members have signed."),
    ("farm register", "capacity:farm_register", "Register a farm."),
    ("farm add-node", "capacity:farm_add_node", "Name a node key as one of a farm's nodes."),
    ("farm certify", "certified_farms:certify", "Sign that you stand for a farm."),
    ("farm certified", "certified_farms:certified", "Carry a certifier's word about your farm in."),
    ("farm uncertify", "certified_farms:uncertify", "Take your word about a farm back."),
    ("farm list", "capacity:farm_list", "List the farms."),
    ("node consent", "capacity:node_consent", "Sign that the home's node joins a farm."),
    ("node offer", "capacity:node_offer", "Post the offer of the home's node."),
    ("node withdraw", "capacity:node_withdraw", "Withdraw the offer of the home's node."),
    ("node drain", "standing:drain", "Tell that the home's node leaves, and when."),
    ("node certify", "standing:certify", "Sign that you stand for a node."),
    ("node certified", "standing:certified", "Carry a certifier's word about one of your nodes in."),
    ("node uncertify", "standing:uncertify", "Take your word about a node back."),
    ("node slots", "capacity:node_slots", "Show what the 3node that is asked holds and does."),
    ("node quarantine", "quarantine:quarantine", "List what the home's node runs no more."),
    ("node release", "quarantine:release", "Let the home's node run a quarantined manifest again."),
    ("node list", "capacity:node_list", "List the nodes and their offers."),
    ("audit export", "audit:export", "Write a deployment's whole life to one file."),
    ("audit verify", "audit:verify", "Check an audit file with nothing but the genesis."),
    ("inspect", "store:inspect", "Show what the home of a stopped peer holds, and check it."),
    ("rollback", "store:rollback", "Take the newest blocks of a stopped peer back."),
    ("reset", "store:reset", "Remove the chain of a stopped peer; keys and sign state stay."),
    ("doctor", "doctor:doctor", "Check this machine and the home."),
    ("completion", "completion:completion", "Print a shell's completion script."),
)
_GROUPS: Final = {
    "peers": "Other peers: who is there, and orders about them.",
    "testnet": "A local network for developers.",
    "validators": "Show the validators in force, and agree on the next set.",
    "keys": "Account keys in files.",
    "tx": "Transactions.",
    "contract": "Contracts: write, check, build, publish, find, compare, take back.",
    "artifact": "The files that a peer holds for contracts.",
    "deployment": "Deployments.",
    "secrets": "Values that only the nodes which hold a deployment's slots are given.",
    "org": "Organisations: whose members hold roles, and how they change.",
    "farm": "Farms.",
    "node": "3nodes.",
    "audit": "A deployment's life as one file.",
}


def _build() -> None:
    groups: dict[str, App] = {}
    for words, path, text in COMMANDS:
        group, _, name = words.rpartition(" ")
        target = app
        if group:
            if group not in groups:
                groups[group] = _group(group)
                app.command(groups[group])
            target = groups[group]
        if words in _GROUPS:  # a group that does something by itself
            groups.setdefault(words, _group(words))
            app.command(groups[words])
            groups[words].default(_loaded(path, text))
        else:
            target.command(f"node.cli.{path}", name=name, help=text)


def _group(name: str) -> App:
    return App(name=name, help=_GROUPS[name], help_format="plaintext", default_parameter=_PARAMETERS)


def _loaded(path: str, text: str) -> Callable[[], int]:
    """A command without options that is loaded when it is called."""

    def run() -> int:
        module, _, function = path.partition(":")
        return int(getattr(import_module(f"node.cli.{module}"), function)())

    run.__doc__ = text
    return run


_build()
