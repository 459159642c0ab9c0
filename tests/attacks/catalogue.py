"""Attacks on what 3nodes run: who, what, what stops it, the tests that try it, and the controls that show
that the attempt can succeed. `python -m tests.attacks.run` runs them; docs/threat-model.md is made from this.

A test is named by its file below `tests/`, its name and, where it has cases, one case; without a case all of
them count. SELF: the test holds its own control, and fails when the attempt could not have succeeded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SELF: Final = "the test itself"

EXCHANGE, HOSTILE = "node/test_artifact_exchange.py", "node/test_artifact_hostile.py"
EXECUTOR, VERIFY = "node/test_executor.py", "node/test_executor_verify.py"
ESCAPES, ISOLATION = "executor/test_escapes.py", "executor/test_sandbox_isolation.py"
RUN, LIMITS, FLOODS = (f"executor/test_{name}.py" for name in ("sandbox_run", "sandbox_limits", "floods"))
OCI, OCI_IMAGE = "executor/test_oci.py", "executor/test_oci_image.py"
WASI, WASI_FILES, WASM_BOUNDS = (f"executor/test_{name}.py" for name in ("wasi", "wasi_files", "wasm_bounds"))
HELD, AGREE = "node/test_results_held.py", "ledger/test_agreement.py"
TREE, INTEGRITY = "executor/test_tree.py", "executor/test_integrity.py"
SEALED, VOLUMES, REACH = (f"executor/test_{name}.py" for name in ("sealed_root", "volumes", "reach"))
CHECKS = "executor/test_checks.py"
EGRESS, LANDLOCK = "executor/test_egress.py", "executor/test_landlock.py"
PARAMETERS, STALE = "executor/test_parameters.py", "ledger/test_stale_holder.py"
MANIFEST, SECRETS = "ledger/test_manifest.py", "bot/test_secrets.py"


class Attack(NamedTuple):
    """One row. `left`: what of it is not stopped."""

    part: str
    what: str
    who: str
    stops: str
    tests: tuple[str, ...]
    controls: tuple[str, ...]
    left: str = ""


def escape(what: str, stops: str, *names: str, more: tuple[str, ...] = (), left: str = "") -> Attack:
    """Attempts of `executor/attempts.c`, refused inside, in a sandbox as in a container; their controls
    succeed outside."""
    inside = ("test_what_leads_out_is_refused", "test_what_leads_out_of_a_container_is_refused")
    tests = (*(f"{ESCAPES}::{test}[{name}]" for name in names for test in inside), *more)
    controls = tuple(f"{ESCAPES}::test_outside_it_succeeds[{name}]" for name in names)
    return Attack("escape", what, "a workload", stops, tests, controls, left)


PROBED: Final = f"{ISOLATION}::test_system_calls_are_refused"
KERNEL: Final = "a fault of the kernel in a call that is allowed"
FARMER: Final = "a farmer who alters the kernel or the node: shown to honest nodes only by replication"

FILES: Final = (
    Attack(
        "files", "a chunk with other bytes", "a lying peer",
        "each chunk is hashed against the list that the contract signs; the liar is dropped at the first",
        (f"{EXCHANGE}::test_a_source_that_lies_is_dropped_at_its_first_bad_chunk",
         f"{EXECUTOR}::test_a_source_that_tampers_is_dropped_and_the_fetch_completes_from_another"),
        (f"{EXCHANGE}::test_many_sources_share_the_work_and_the_fetcher_serves_on",),
    ),
    Attack(
        "files", "a false list of chunks", "a lying peer", "its root is signed; no chunk is asked by it",
        (f"{EXCHANGE}::test_a_false_list_is_found_before_any_chunk_is_asked",
         f"{HOSTILE}::test_crumbs_of_a_list_are_a_lie"),
        (f"{EXCHANGE}::test_many_sources_share_the_work_and_the_fetcher_serves_on",),
    ),
    Attack(
        "files", "a file under another's name", "a lying peer, or the node's disk",
        "the driver hashes its sealed copy itself, and again as the workload sees it",
        (f"{RUN}::test_wrong_digest_is_refused",
         "node/test_artifacts.py::test_bytes_under_a_false_name_leave_nothing_behind"),
        (f"{RUN}::test_job_leaves_results",),
    ),
    Attack(
        "files", "a file that is replaced after it was verified", "somebody on the node's host",
        "a sealed memfd: what was hashed is what runs",
        (f"{RUN}::test_source_replaced_after_prepare_changes_nothing",
         "executor/test_seal.py::test_sealed_bytes_cannot_change"),
        (SELF,),
    ),
    Attack(
        "files", "an image that is changed at rest", "somebody on the node's host",
        "hashed before it runs; what changed is neither run nor served",
        ("node/test_executor_rest.py::test_an_image_changed_at_rest_runs_nowhere",
         "node/test_artifacts.py::test_what_the_disk_changed_is_never_served",
         "node/test_artifact_swarm.py::test_what_the_disk_changed_of_a_part_is_not_given"),
        (SELF,),
    ),
    Attack(
        "files", "root edits the image while it runs", "the host's root",
        "erofs in a sealed memfd behind a read-only loop: no write gets there",
        (f"{SEALED}::test_root_cannot_change_a_byte",),
        (f"{INTEGRITY}::test_changed_bytes",),
        left=FARMER,
    ),
    Attack(
        "files", "root puts another file behind the image's device", "the host's root",
        "a re-check compares what stands behind the device",
        (f"{SEALED}::test_another_file_behind_the_device_is_seen",),
        (f"{SEALED}::test_it_is_advertised_and_used",),
        left="what changed and changed back between two re-checks",
    ),
    Attack(
        "files", "root edits the files where the host has no sealed images", "the host's root",
        "re-checks hash the files; drift stops, and quarantines",
        (f"{INTEGRITY}::test_changed_bytes", f"{INTEGRITY}::test_changed_bytes_of_an_ended_task",
         f"{EXECUTOR}::test_drifted_bytes_are_stopped_and_the_slot_is_quarantined"),
        (f"{INTEGRITY}::test_nothing_changed",),
        left="what changed and changed back between two re-checks",
    ),
    Attack(
        "files", "a file mounted over a verified one", "the host's root", "re-checks compare mounts, too",
        (f"{INTEGRITY}::test_file_mounted_over",), (f"{INTEGRITY}::test_nothing_changed",),
        left="what changed and changed back between two re-checks",
    ),
    Attack(
        "files", "a foreign program is sent into the running sandbox", "the host's root",
        "every executable mapping must be of a verified file: drift",
        (f"{INTEGRITY}::test_foreign_process_in_the_sandbox",), (f"{INTEGRITY}::test_nothing_changed",),
        left="the host's root with a debugger, on data that is no code",
    ),
    Attack(
        "files", "code is changed in memory", "a workload, or the host's root",
        "Landlock lets no process write `/proc/self/mem`; re-checks compare the pages",
        (f"{INTEGRITY}::test_code_patched_in_memory",), (SELF,),
    ),
    escape(
        "runs a file that it wrote itself, or maps one as code",
        "scratch is never executable, no executable anonymous memory, no memfd; Landlock",
        "run_own_file", "run_memfd", "map_own_file", "jit",
        left="an interpreter among the artifacts runs what it reads: the stakeholders approve it with that",
    )._replace(part="files"),
)  # fmt: skip

IMAGES: Final = (
    Attack(
        "images", "symbolic and hard links", "an author", "only plain files and folders in a tree",
        (f"{TREE}::test_refused_members",), (f"{TREE}::test_files_and_directories",),
    ),
    Attack(
        "images", "paths that leave the tree", "an author", "no absolute, empty or dotted part of a path",
        (f"{TREE}::test_refused_members", f"{TREE}::test_one_changed_header_byte_never_escapes_the_tree",
         f"{RUN}::test_bad_tree_is_refused_and_named", f"{ISOLATION}::test_artifact_paths_are_checked"),
        (f"{TREE}::test_files_and_directories",),
    ),
    Attack(
        "images", "bombs: compressed, of holes, of many names", "an author",
        "no compressed or sparse form is read; size and number are those that were signed, and bounded",
        (f"{TREE}::test_what_is_packed_is_no_tree", f"{TREE}::test_holes_are_not_filled",
         f"{TREE}::test_number_of_members_is_bounded",
         f"{TREE}::test_size_beyond_the_tar_is_refused_without_reading",
         "ledger/test_contract.py::test_an_alias_bomb_is_refused_at_its_first_anchor"),
        (f"{TREE}::test_files_and_directories",),
    ),
    Attack(
        "images", "device nodes", "an author, or a workload",
        "no device in a tree; every mount is nodev, no capability to make one",
        (f"{TREE}::test_refused_members", f"{ESCAPES}::test_what_leads_out_is_refused[mknod]",
         f"{VOLUMES}::test_nothing_in_it_is_executed_set_uid_or_a_device"),
        (f"{ESCAPES}::test_outside_it_succeeds[mknod]",),
    ),
    Attack(
        "images", "set-user-id programs", "an author, or a workload",
        "refused in a tree; every mount is nosuid, no-new-privileges, no capability",
        (f"{TREE}::test_refused_members", f"{ISOLATION}::test_privileges_inside",
         f"{VOLUMES}::test_nothing_in_it_is_executed_set_uid_or_a_device"),
        (f"{TREE}::test_only_executable_counts_of_the_mode",),
    ),
    Attack(
        "images", "tricks among result files: links, fifos, too much", "a workload",
        "collected without following anything, bounded",
        (f"{RUN}::test_bad_results_are_refused",), (f"{RUN}::test_job_leaves_results",),
    ),
    Attack(
        "images", "a container image that is not what it is named", "a lying peer, an author",
        "every digest from the artifact down to each layer, as it is and decompressed, is checked by us",
        (f"{OCI_IMAGE}::test_a_changed_byte_in_any_blob_is_seen",
         f"{OCI_IMAGE}::test_a_layer_that_is_not_what_the_configuration_names_is_seen",
         f"{OCI_IMAGE}::test_what_belongs_to_no_part_is_refused",
         f"{OCI}::test_what_is_not_its_image_is_not_started"),
        (f"{OCI_IMAGE}::test_an_image_opens_to_its_files_in_both_forms_and_two_gzip_members",),
    ),
    Attack(
        "images", "a container layer that writes through a link, or out of the root", "an author",
        "layers are laid over each other in memory, by name: nothing is ever looked up on a disk",
        (f"{OCI_IMAGE}::test_a_link_of_a_lower_layer_leads_no_upper_one_anywhere",
         f"{OCI_IMAGE}::test_a_member_that_breaks_a_rule_is_refused",
         f"{OCI_IMAGE}::test_artifacts_lie_on_top_of_files_and_of_nothing_else"),
        (f"{OCI_IMAGE}::test_upper_layers_replace_and_whiteouts_remove",),
    ),
    Attack(
        "images", "a container layer that unpacks to a thousand times its size", "an author",
        "decompressed in pieces, up to a bound over all layers",
        (f"{OCI_IMAGE}::test_a_zip_bomb_is_stopped_at_its_bound",), (SELF,),
    ),
    Attack(
        "images", "a container image with devices, set-user-id bits, users and mounts of its own",
        "an author",
        "devices are refused, the bits left out; users are mapped to numbers that nobody has",
        (f"{OCI_IMAGE}::test_a_member_that_breaks_a_rule_is_refused",
         f"{OCI_IMAGE}::test_set_user_id_bits_are_left_out_and_long_names_are_read",
         f"{OCI}::test_an_images_own_mounts_and_hooks_lead_nowhere",
         f"{OCI}::test_inside_there_is_no_privilege_and_no_network"),
        (f"{OCI}::test_a_container_is_what_its_image_and_its_task_say",),
    ),
)  # fmt: skip

FLOOD: Final = (
    Attack(
        "floods", "a fork bomb", "a workload", "pids by cgroup, else by prlimit",
        (f"{LIMITS}::test_fork_bomb_is_stopped", f"{LIMITS}::test_pids_limit_is_exact"),
        (f"{FLOODS}::test_processes",),
    ),
    Attack(
        "floods", "takes all memory", "a workload", "memory by cgroup, scratch counted in; else by prlimit",
        (f"{LIMITS}::test_memory_hog_is_killed", f"{LIMITS}::test_memory_limit_counts_the_scratch"),
        (f"{FLOODS}::test_memory",),
    ),
    Attack(
        "floods", "takes all processor time", "a workload", "a quota by cgroup; a job's time limit",
        (f"{LIMITS}::test_cpu_is_bounded",
         f"{EXECUTOR}::test_a_job_that_outlives_its_time_limit_is_stopped_and_has_failed"),
        (f"{LIMITS}::test_usage_of_a_busy_loop_and_of_memory_is_told",),
        left="without cgroups the quota is not enforced, and not offered",
    ),
    Attack(
        "floods", "a WebAssembly program that never ends, grows or calls without end", "a workload",
        "fuel, for instructions and calls alike; bounds of memory, files and descriptors",
        (f"{WASM_BOUNDS}::test_fuel_ends_a_loop", f"{WASM_BOUNDS}::test_calls_cost_fuel_too",
         f"{WASM_BOUNDS}::test_memory_ends_at_its_bound",
         f"{WASI_FILES}::test_the_room_is_bounded_and_given_back",
         f"{WASI_FILES}::test_descriptors_are_bounded_and_the_lowest_is_taken"),
        ("executor/test_wasm.py::test_a_program_says_and_ends",),
    ),
    Attack(
        "floods", "fills the scratch, by bytes and by names", "a workload", "a tmpfs with bounds of both",
        (f"{LIMITS}::test_scratch_is_bounded_in_bytes_and_inodes",), (f"{FLOODS}::test_disk",),
    ),
    Attack(
        "floods", "fills the node's disk by its volume", "a workload",
        "a file system of its own size, set aside beforehand",
        (f"{VOLUMES}::test_its_size_is_a_limit", f"{VOLUMES}::test_no_more_is_promised_than_there_is"),
        (f"{VOLUMES}::test_what_a_run_wrote_the_next_one_reads",),
    ),
    Attack(
        "floods", "fills the node's disk by artifacts", "an author",
        "a budget, and a reserve that files never take",
        (f"{HOSTILE}::test_a_full_disk_ends_the_fetch_and_gives_the_room_back",
         "node/test_artifacts.py::test_the_budget_holds_and_only_fetched_unpinned_artifacts_make_room"),
        (f"{EXCHANGE}::test_many_sources_share_the_work_and_the_fetcher_serves_on",),
    ),
    Attack(
        "floods", "a flood of logs", "a workload", "a ring of its size; who writes too fast is held back",
        (f"{RUN}::test_log_flood_is_bounded_and_keeps_the_newest",
         f"{RUN}::test_endless_flood_does_not_eat_the_host"),
        (f"{FLOODS}::test_logs",),
    ),
    Attack(
        "floods", "a flood of results", "a workload", "all of a job together are bounded",
        (f"{FLOODS}::test_result_files",), (SELF,),
    ),
)  # fmt: skip

ESCAPE: Final = (
    escape("mounts, also by the new calls, and another root", "two seccomp filters, no capability",
           "mount", "bind", "fsopen", "chroot", more=(PROBED,), left=KERNEL),
    escape("ptrace, and the memory of others", "seccomp; Landlock", "ptrace", "read_memory", left=KERNEL),
    escape("namespaces of its own, or others'", "seccomp, also for the flags of clone",
           "unshare", "unshare_user", "clone_pid", "setns", more=(PROBED,), left=KERNEL),
    escape("the kernel's keyrings", "seccomp", "keyctl", "add_key", left=KERNEL),
    escape("bpf and perf", "seccomp", "bpf", "perf", left=KERNEL),
    escape("io_uring", "seccomp", "io_uring", left=KERNEL),
    escape("raw, packet and netlink sockets", "seccomp by family and type; no capability",
           "raw_socket", "packet_socket", "netlink", more=(PROBED,), left=KERNEL),
    escape("`/proc` of others", "a pid namespace and a `/proc` of its own", "proc",
           more=(f"{ISOLATION}::test_host_is_out_of_sight",)),
    escape("the limits of its cgroup", "no cgroup file system inside, and no mount", "cgroup"),
    escape("files of the host", "a root of its own; Landlock", "file",
           more=(f"{ISOLATION}::test_writes_only_to_scratch", f"{LANDLOCK}::test_what_landlock_denies")),
    Attack("escape", "calls by the 32-bit table", "a workload", "seccomp by architecture: SIGSYS",
           (f"{ISOLATION}::test_i386_calls_do_not_pass_by_the_filter",),
           (f"{ESCAPES}::test_an_attempt_that_is_allowed_is_told_so",)),
    Attack("escape", "a WebAssembly program looks for files, sockets, clocks of the host", "a workload",
           "it has no calls but ours, on files of its own in memory; and the sandbox is around it",
           (f"{WASI}::test_there_is_no_network_no_link_no_signal",
            f"{WASI}::test_what_is_not_its_memory_is_a_fault",
            f"{WASI_FILES}::test_nothing_is_above_the_root", f"{WASI_FILES}::test_bad_names",
            f"{WASI_FILES}::test_no_time_number_or_device_of_the_host",
            f"{WASM_BOUNDS}::test_there_is_nothing_outside"),
           (f"{WASI_FILES}::test_inputs_are_read_and_nothing_else",)),
    Attack("escape", "a way out by the command of a health check, which the node runs inside", "an author",
           "it runs within all that holds the workload, and counts among its processes",
           (f"{CHECKS}::test_it_is_as_confined_as_the_workload",
            f"{ESCAPES}::test_what_leads_out_is_refused_to_a_check_too",
            f"{OCI}::test_a_check_is_its_user_in_its_folder_and_no_more",
            f"{OCI}::test_checks_are_within_the_containers_limits",
            f"{CHECKS}::test_what_takes_too_long_is_killed_with_all_that_it_started",
            f"{CHECKS}::test_it_counts_among_the_workloads_processes_and_ends_with_it"),
           (f"{CHECKS}::test_its_exit_status_is_told",)),
    Attack("escape", "descriptors and variables that leaked in", "a workload", "none is passed on",
           (f"{ISOLATION}::test_no_descriptor_or_environment_leaks_in",
            f"{LANDLOCK}::test_the_command_gets_its_words_and_environment_and_no_descriptor"),
           (SELF,)),
)  # fmt: skip

NETWORK: Final = (
    Attack(
        "network", "the node's API and p2p port, a neighbour, a cloud's metadata, the host's network",
        "a workload", "a network namespace with nothing but its own loopback",
        (f"{REACH}::test_the_node_its_neighbours_and_metadata_are_out_of_reach",
         f"{REACH}::test_they_are_for_a_container_too",
         f"{ISOLATION}::test_no_network_at_all"),
        (SELF,),
    ),
    Attack(
        "network", "the same, with egress to somewhere else", "a workload",
        "a relay that listens for the named addresses and ports alone",
        (f"{EGRESS}::test_in_a_namespace_of_its_own",), (SELF,),
    ),
    Attack(
        "network", "a name in the contract that leads into the farmer's network", "who owns the name",
        "each address is judged after it was resolved, and pinned for the term",
        (f"{EGRESS}::test_what_leads_into_the_farmers_network_is_refused_by_name",
         f"{EGRESS}::test_what_is_not_the_wide_world_is_never_allowed"),
        (f"{EGRESS}::test_names_are_pinned_with_all_their_allowed_addresses",),
    ),
    escape("abstract Unix sockets of the host", "the network namespace", "abstract_socket")._replace(
        part="network"
    ),
    Attack(
        "network", "the other way through its own port", "a workload", "the portal carries inwards alone",
        (f"{ISOLATION}::test_portal_is_one_way",), (SELF,),
    ),
)  # fmt: skip

HOLDERS: Final = (
    Attack(
        "holders", "a stale holder writes results, or any other word", "a former holder",
        "the ledger takes the word of the holder in its term alone",
        (f"{STALE}::test_a_former_holder_writes_no_result", f"{STALE}::test_a_former_holder_renews_nothing",
         f"{EXECUTOR}::test_the_ledger_refuses_a_report_of_a_stale_term"),
        (f"{STALE}::test_the_holder_writes_it_and_it_stays",),
    ),
    Attack(
        "holders", "a stale holder writes to a volume", "leftovers of a former run",
        "killed before anything is claimed; one mount at a time, by a lock of the kernel",
        (f"{VOLUMES}::test_two_at_once_never_have_one_volume",
         f"{EXECUTOR}::test_after_a_restart_leftovers_are_killed_before_anything_is_claimed",
         "executor/test_watchdog.py::test_a_frozen_node_keeps_nothing_running"),
        (f"{VOLUMES}::test_what_a_run_wrote_the_next_one_reads",
         "executor/test_watchdog.py::test_who_renews_is_kept_running"),
        left="who stops the node and its launcher both, as the host's root",
    ),
    Attack(
        "holders", "a stale holder records copies of a volume, or another has them kept",
        "a former holder, a node",
        "the ledger and the keepers take them of the holder in its term alone",
        ("ledger/test_copies.py::test_a_stale_holder_records_nothing",
         "bot/test_volume_copies.py::test_only_the_holder_has_copies_kept_and_gets_their_keys"),
        ("ledger/test_copies.py::test_a_copy_lets_another_node_go_on",),
    ),
    Attack(
        "holders", "who keeps a copy of a volume reads it, or gives another one", "a node that keeps it",
        "encrypted under a key that the bot gives to the next holder; checked whole before it is mounted",
        ("bot/test_volume_copies.py::test_who_keeps_a_copy_cannot_read_it_and_has_no_more_than_the_newest",
         "bot/test_volume_copies.py::test_a_copy_that_was_made_up_is_not_mounted",
         "executor/test_volume_copies.py::test_a_copy_that_is_not_whole_unchanged_and_its_own_is_refused"),
        ("bot/test_volume_copies.py::test_a_slot_that_moves_loses_nothing",),
        left="that the copy is what the workload wrote, is the former holder's word",
    ),
    Attack(
        "holders", "fetches a job's result by its digest and reads it", "a peer that is not the consumer",
        "each result is sealed to the consumer by the node that ran the job; its content is in no store",
        (f"{HELD}::test_what_anybody_fetches_by_its_digest_the_consumer_alone_opens",),
        ("node/test_executor.py::test_a_job_ends_with_results_that_its_consumer_fetches_by_digest",),
        left="path and size of each result are public; the node that ran the job has seen it",
    ),
    Attack(
        "holders", "reads results that are held back, or has them released by a false word",
        "who is no stakeholder",
        "sealed to the consumer, and handed over when the node itself has proved the release",
        (f"{HELD}::test_nobody_gets_them_before_the_release_and_the_consumer_alone_after_it",
         f"{HELD}::test_a_release_that_only_the_ledger_claims_moves_nothing",
         f"{HELD}::test_a_forged_release_is_refused_with_its_reason"),
        (f"{HELD}::test_the_forgeries_above_differ_from_what_is_accepted_in_one_thing_each",),
        left="the node that ran the job has seen them, and may tell anybody",
    ),
    Attack(
        "holders", "gives a false result of a job, or copies another's", "a node",
        "k of n must agree; each commits to its result before any is told; who differs pays and is not paid",
        (f"{AGREE}::test_a_copied_commitment_opens_nothing",
         f"{AGREE}::test_nothing_is_told_before_all_have_committed_and_nobody_commits_after_that",
         f"{AGREE}::test_only_what_was_committed_to_is_told",
         "node/test_executor_agree.py::test_three_run_two_agree_and_the_third_pays"),
        (f"{AGREE}::test_those_that_agree_are_paid_and_the_odd_one_out_pays",),
        left="k nodes of one owner, or that arrange it among each other",
    ),
    Attack(
        "holders", "a partition lets two run one slot", "the network",
        "the local stop comes before the ledger frees the slot",
        ("node/test_executor_leases.py::test_a_node_that_is_cut_off_stops_before_its_slot_runs_elsewhere",
         "node/test_lease.py::test_the_local_stop_precedes_the_ledgers_free_time"),
        ("node/test_executor_leases.py::test_what_a_killed_node_held_is_claimed_again_with_a_higher_term",),
    ),
    Attack(
        "holders", "reads the secrets of a slot that it does not hold, or no longer", "a node",
        "the bot gives them to the holder in its term and lease alone, sealed to its key",
        (f"{SECRETS}::test_who_does_not_hold_the_slot_gets_a_refusal_and_nothing_else",
         f"{SECRETS}::test_a_holder_whose_lease_is_over_is_refused_though_the_ledger_still_names_it",
         "node/test_secret_wire.py::test_nobody_else_opens_it"),
        (f"{SECRETS}::test_a_workload_starts_only_with_its_secrets_which_are_nowhere_else",
         "node/test_secret_wire.py::test_the_holder_opens_what_the_consumer_or_its_bot_gave"),
        left="the owner of the hardware that holds the slot",
    ),
    Attack(
        "holders", "finds secrets on a disk, in an argument, a variable or another sandbox",
        "somebody on the node's host, a neighbour", "an unlinked file in memory, for one task",
        ("executor/test_secrets.py::test_nothing_of_a_secret_is_on_the_hosts_disk_or_seen_from_the_host",
         "executor/test_secrets.py::test_two_tasks_do_not_see_each_others_secrets"),
        ("executor/test_secrets.py::test_a_workload_reads_its_secrets_and_can_do_nothing_else_with_them",),
        left="the host's root reads the workload's memory",
    ),
    Attack(
        "holders", "reads the log of somebody else's workload", "who is not the consumer",
        "asked with the consumer's signature, sealed to the consumer's key",
        ("node/test_executor_logs.py::test_nobody_else_reads_them",
         "node/test_services_cli.py::test_a_peer_carries_nobody_elses_question"),
        ("node/test_executor_logs.py::test_the_consumer_reads_the_newest_bytes_through_any_peer",),
        left="the host's root reads it",
    ),
    Attack(
        "holders", "claims what was not approved", "a node", "no slot is open before its policy is satisfied",
        (f"{STALE}::test_nobody_claims_what_was_not_approved",), (SELF,),
    ),
    Attack(
        "holders", "has honest nodes run what was not approved", "a captured BFT quorum",
        "each node proves order, contract, expansion and approvals itself, and again before the start",
        (f"{EXECUTOR}::test_a_forged_status_moves_no_node_that_proves_the_approvals_itself",
         f"{VERIFY}::test_a_forged_approval_is_refused_with_its_reason",
         f"{VERIFY}::test_a_revocation_that_the_status_hides_is_seen"),
        (f"{VERIFY}::test_the_forgeries_above_differ_from_what_is_accepted_in_one_thing_each",),
    ),
)  # fmt: skip

CONSUMER: Final = (
    Attack(
        "parameters", "a value that adds an argument, or runs in a shell", "a consumer",
        "a value stays one word of the command; no parameter stands in a script",
        (f"{PARAMETERS}::test_a_value_reaches_the_workload_as_it_is",
         f"{PARAMETERS}::test_the_authors_script_takes_no_parameter",
         f"{MANIFEST}::test_a_value_stays_one_value"),
        (f"{MANIFEST}::test_parameters_take_their_places",),
        left="an author's program that runs what it is given: the stakeholders approve it with that",
    ),
    Attack(
        "parameters", "a value that becomes an option", "a consumer", "refused as the first of a word",
        (f"{PARAMETERS}::test_a_value_is_no_option", f"{MANIFEST}::test_a_value_never_becomes_an_option"),
        (SELF,),
    ),
    Attack(
        "parameters", "a value in a path, or in a variable's name", "a consumer",
        "no parameter stands there",
        (f"{MANIFEST}::test_where_parameters_may_not_stand",),
        (f"{MANIFEST}::test_parameters_take_their_places",),
    ),
    Attack(
        "parameters", "control and invisible characters", "a consumer", "refused by character",
        (f"{MANIFEST}::test_control_and_invisible_characters_are_refused",),
        (f"{MANIFEST}::test_parameters_take_their_places",),
    ),
)  # fmt: skip

ATTACKS: Final = (*FILES, *IMAGES, *FLOOD, *ESCAPE, *NETWORK, *HOLDERS, *CONSUMER)
