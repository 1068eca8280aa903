"""Which network addresses may be connected to, checked on the very address that is connected to.

A name is resolved once, each of its addresses is checked, and the connection goes to a checked address: so neither a
redirect nor a name that changes its mind between check and use leads into a private network.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

import httpcore

from shared.errors import InputError, Retryable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, seen through IPv6 forms that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if carried := _carried(address):
            return all(is_public(inner) for inner in carried)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _carried(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)
    if address.sixtofour:
        return (address.sixtofour,)
    if address.teredo:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


@dataclass(frozen=True)
class Guard:
    """Public addresses, and whatever else is listed, may be connected to."""

    #: Lower-case host names that may have any address.
    hosts: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    #: Hosts that may have any address on one port.
    endpoints: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str], endpoints: Iterable[tuple[str, int]] = ()) -> "Guard":
        """From the entries of `input.allow_hosts`: host names, addresses and CIDR networks."""
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks), frozenset(endpoints))

    def allows(self, host: str, port: int, address: Address) -> bool:
        """Whether `host` on `port` may be connected to at `address`."""
        name = host.lower().rstrip(".")
        if name in self.hosts or (name, port) in self.endpoints or is_public(address):
            return True
        forms = (address, address.ipv4_mapped) if isinstance(address, ipaddress.IPv6Address) else (address,)
        return any(form in network for form in forms if form is not None for network in self.networks)

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, all checked. Raises InputError if one is forbidden or there is none."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise Retryable(f"the name {host} could not be looked up just now ({error.strerror}).") from error
            raise InputError(f"the host {host} is unknown ({error.strerror}): check the URL.") from error
        except (UnicodeError, OSError, OverflowError) as error:
            raise InputError(f"the host {host} cannot be looked up ({error}): check the URL.") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not self.allows(host, port, ipaddress.ip_address(address)):
                raise InputError(
                    f"the host {host} has the address {address}, which is not on the public internet; "
                    "if it is yours, list it in `input.allow_hosts`."
                )
        return addresses


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, and gives up everything at `deadline` (time.monotonic)."""

    def __init__(self, guard: Guard, deadline: float) -> None:
        self._guard = guard
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that answers."""
        *others, last = self._guard.resolve(host, port)
        for address in others:
            try:
                return self._connect(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(last, port, timeout, local_address, socket_options)

    def _connect(
        self, address: str, port: int, timeout: float | None, local_address: str | None, options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._backend.connect_tcp(address, port, left, local_address, options), self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """Never: only the network is fetched from."""
        raise InputError(f"{path} is a socket file; only http(s) URLs are fetched.")

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class _DeadlineStream(httpcore.NetworkStream):
    """A stream on which no single wait outlasts the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise late("the total time allowed for the download is over")
    return left if timeout is None else min(left, timeout)
