"""Finding peers on the local network by mDNS, as libp2p does (libp2p/specs, discovery/mdns.md).

Each peer answers for the service ``_p2p._udp.local`` under a random name, with TXT records
``dnsaddr=ADDRESS``. What is found is a hint like any other address: it goes into the peer book, noise proves
who is there, and the hello whether it is of our chain. The library's own mDNS is not used: it tells one
address of the machine's name, and dials past our limits.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from p2p.errors import LocalError
from p2p.ids import peer_of_address
from p2p.limits import ADDRESS_BYTES_MAX, MDNS_ADDRESSES_MAX, MDNS_ANSWER_S

if TYPE_CHECKING:
    from zeroconf import Zeroconf

SERVICE: Final = "_p2p._udp.local."
_KEY: Final = b"dnsaddr="
_ANY: Final = "/ip4/0.0.0.0/"


def addresses_on(listen: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """Returns what to tell: the listen addresses, with 0.0.0.0 as each of this machine's hosts; none of
    loopback, for nobody else is there."""
    found = []
    for address in listen:
        if address.startswith(_ANY):
            found += [f"/ip4/{host}/{address[len(_ANY) :]}" for host in hosts]
        else:
            found.append(address)
    return [one for one in found if not one.startswith(("/ip4/127.", "/ip6/::1/"))][:MDNS_ADDRESSES_MAX]


def text_of(addresses: Sequence[str]) -> bytes:
    """Returns the TXT record: each string behind its length in one byte (RFC 6763, section 6)."""
    strings = [_KEY + address.encode("ascii") for address in addresses]
    return b"".join(bytes([len(one)]) + one for one in strings if len(one) < 256)


def addresses_in(text: bytes) -> list[str]:
    """Returns the addresses in a TXT record, at most MDNS_ADDRESSES_MAX; what is malformed is left out."""
    found: list[str] = []
    while text and len(found) < MDNS_ADDRESSES_MAX:
        one, text = text[1 : 1 + text[0]], text[1 + text[0] :]
        if not one.startswith(_KEY) or not one.isascii() or len(one) > len(_KEY) + ADDRESS_BYTES_MAX:
            continue
        address = one[len(_KEY) :].decode("ascii")
        try:
            peer_of_address(address)
        except LocalError:
            continue
        found.append(address)
    return found


class Lan:
    """``listen`` gives our listen addresses, ``learn`` takes an address that was found (on trio's thread),
    ``count`` the names of counters."""

    def __init__(
        self, listen: Callable[[], Sequence[str]], learn: Callable[[str], None], count: Callable[[str], None]
    ) -> None:
        self._listen = listen
        self._learn = learn
        self._count = count

    async def run(self) -> None:
        """Answers and asks until cancelled. Without multicast it counts ``mdns.unavailable`` and ends."""
        token = trio.lowlevel.current_trio_token()
        listen = list(self._listen())
        try:
            zeroconf = await trio.to_thread.run_sync(self._start, listen, token)
        except OSError:
            self._count("mdns.unavailable")
            return
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(zeroconf.close)

    def _start(self, listen: Sequence[str], token: Any) -> "Zeroconf":
        """On a thread: the library runs threads of its own. Raises OSError."""
        from ifaddr import get_adapters
        from zeroconf import (  # half a second of import, for those who want it
            InterfaceChoice,
            IPVersion,
            ServiceBrowser,
            ServiceInfo,
            ServiceStateChange,
            Zeroconf,
        )

        found = [str(one.ip) for adapter in get_adapters() for one in adapter.ips if one.is_IPv4]
        hosts = [host for host in found if not host.startswith("127.")]
        zeroconf = Zeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
        try:
            name = secrets.token_hex(16)
            told = addresses_on(listen, hosts)
            if told:
                zeroconf.register_service(
                    ServiceInfo(
                        SERVICE,
                        f"{name}.{SERVICE}",
                        port=0,  # the addresses say it
                        properties=text_of(told),
                        server=f"{name}.local.",
                        parsed_addresses=hosts,
                    )
                )

            def changed(
                zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
            ) -> None:
                if state_change is ServiceStateChange.Removed:
                    return
                info = zeroconf.get_service_info(service_type, name, int(MDNS_ANSWER_S * 1_000))
                found = addresses_in(info.text or b"") if info is not None else []
                try:
                    token.run_sync_soon(self._take, found)
                except trio.RunFinishedError:
                    return  # the peer has stopped meanwhile

            ServiceBrowser(zeroconf, SERVICE, handlers=[changed])
        except BaseException:
            zeroconf.close()
            raise
        return zeroconf

    def _take(self, found: Sequence[str]) -> None:
        for address in found:
            self._count("mdns.found")
            self._learn(address)
