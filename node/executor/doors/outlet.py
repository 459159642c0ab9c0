"""The one way out of a sandbox: named addresses and ports, and nothing else.

The workload's network namespace has no interface but loopback. This process puts the allowed addresses on
it, listens there on the allowed ports, and carries each connection to the real address from the host's
namespace. So there is no route to anything that is not named: not to the node's own API, not to a neighbour,
not to a cloud's metadata address; and no rule of a firewall that could be missing. An address of the host
itself is never carried to: what listens there trusts who is on the host.

A process of its own (`python -I -S`, standard library). A child enters the workload's namespace, makes the
listening sockets there, hands them over and ends; what connects outwards has never been inside. It ends when
its stdin does, which is when the node ends.

Arguments: the pid whose network namespace to enter, the uid to become (or -1), then `ADDRESS PORT` in turn.
It prints one line, `ready` or the reason why not.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import sys
import time

from node.executor.doors.portal import Portal, Target, join_network
from node.executor.host import kernel
from node.executor.limits import EGRESS_ADDRESS_S, EGRESS_BACKLOG, EGRESS_IDLE_S

_SET_ADDRESS, _SET_NETMASK, _GET_INDEX = 0x8916, 0x891C, 0x8933  # ioctl numbers, netdevice(7)
_GET_ROUTE, _NEW_ROUTE, _REQUEST, _DESTINATION, _UNICAST = 26, 24, 1, 1, 1  # rtnetlink(7)
_LOOPBACK = b"lo"
_POLL_S = 0.002


def is_own(address: str) -> bool:
    """Whether the host that we are on has this address, or delivers what is sent there to itself.

    The kernel's own routes say so, rtnetlink(7): an address may be local without standing on an interface.
    True, too, when it cannot be told.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    route = struct.pack("=8BI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    wanted = route + struct.pack("=HH", 4 + len(packed), _DESTINATION) + packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
            asked.send(struct.pack("=IHHII", 16 + len(wanted), _GET_ROUTE, _REQUEST, 1, 0) + wanted)
            answer = asked.recv(4096, socket.MSG_DONTWAIT)  # it is there when send returns
    except OSError:
        return True
    (kind,) = struct.unpack_from("=H", answer, 4)
    # No way there at all comes as an error, and connecting will come to the same.
    return kind == _NEW_ROUTE and answer[16 + 7] != _UNICAST


def add_address(address: str, number: int) -> None:
    """Put an address on the loopback of this process's network namespace. Raises OSError."""
    if ":" in address:
        _add_ipv6(address)
    else:
        _add_ipv4(address, number)


def _add_ipv4(address: str, number: int) -> None:
    """As an alias: `lo:1` is loopback, too, with an address of its own."""
    name = _LOOPBACK + f":{number}".encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SET_ADDRESS, address), (_SET_NETMASK, "255.255.255.255")):
            packed = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, packed)


def _add_ipv6(address: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        found = fcntl.ioctl(control, _GET_INDEX, struct.pack("16si20x", _LOOPBACK, 0))
        (index,) = struct.unpack_from("i", found, 16)
        packed = socket.inet_pton(socket.AF_INET6, address) + struct.pack("=Ii", 128, index)
        fcntl.ioctl(control, _SET_ADDRESS, packed)


def listen_inside(targets: list[Target]) -> list[socket.socket]:
    """A listening socket for each target, at its own address and port, in the namespace that was entered."""
    for number, address in enumerate(dict.fromkeys(target.host for target in targets), 1):
        add_address(address, number)
    found = []
    for target in targets:
        family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(listener, target)
        listener.listen(EGRESS_BACKLOG)
        found.append(listener)
    return found


def _bind(listener: socket.socket, target: Target) -> None:
    """The kernel makes an IPv6 address usable in a task of its own, some time after it was added."""
    deadline_s = time.monotonic() + EGRESS_ADDRESS_S
    while True:
        try:
            return listener.bind((target.host, target.port))
        except OSError as error:
            late = time.monotonic() > deadline_s
            if late or error.errno != errno.EADDRNOTAVAIL or listener.family != socket.AF_INET6:
                raise
            time.sleep(_POLL_S)


def _hand_over(end: socket.socket, pid: int, targets: list[Target]) -> None:
    """In the child: enter, listen, send the sockets or the reason why not."""
    try:
        join_network(pid, -1)
        listeners = listen_inside(targets)
        fds = array.array("i", [listener.fileno() for listener in listeners])
        end.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    except OSError as error:
        end.sendmsg([f"-{error}".encode()[:500]])


def _receive(end: socket.socket, count: int) -> list[socket.socket]:
    """The child's sockets. Raises OSError with its reason."""
    room = socket.CMSG_SPACE(count * array.array("i").itemsize)
    text, ancillary, _, _ = end.recvmsg(512, room)
    if not text.startswith(b"+"):
        raise OSError(text[1:].decode(errors="replace") or "the namespace could not be entered")
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return [socket.socket(fileno=fd) for fd in fds]


def open_inside(pid: int, targets: list[Target]) -> list[socket.socket]:
    """Listening sockets in the network namespace of `pid`, made by a child that enters it; this process stays
    where it is. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            _hand_over(theirs, pid, targets)
        finally:
            os._exit(0)
    theirs.close()
    try:
        return _receive(ours, len(targets))
    finally:
        ours.close()
        os.waitpid(child, 0)


def main() -> None:
    """Serve the targets named as arguments; see the module's text."""
    pid, uid, *words = sys.argv[1:]
    targets = [Target(words[at], int(words[at + 1])) for at in range(0, len(words), 2)]
    try:
        for target in targets:
            if is_own(target.host):
                raise OSError(errno.EACCES, f"{target.host} is an address of this host")
        listeners = open_inside(int(pid), targets)
        for listener in listeners:
            listener.setblocking(False)
            listener.set_inheritable(False)
        if int(uid) >= 0:
            kernel.become(int(uid))
        kernel.no_new_privileges()
        kernel.not_dumpable()
    except OSError as error:
        os.write(1, f"outlet: {error}\n".encode())
        return
    os.write(1, b"ready\n")
    # Again for each connection: an address may become the host's own.
    carried = dict(zip(listeners, targets, strict=True))
    Portal(carried, 0, EGRESS_IDLE_S, lambda target: not is_own(target.host)).run()


if __name__ == "__main__":
    main()
