"""The faults of the network layer: what a peer did wrong, what is wrong here, and how a request can end."""


class PeerFault(Exception):
    """Somebody else's bytes broke a rule: count it, lower that peer's score, go on.

    ``peer`` is the peer id, ``rule`` a dotted name such as ``frame.too_long`` (it becomes a counter), and
    ``detail`` optional words for people.
    """

    def __init__(self, peer: str, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail or 'rule broken'} (peer {peer})")
        self.peer = peer
        self.rule = rule
        self.detail = detail


class LocalError(Exception):
    """Our own mistake or set-up (bad address in the configuration, message too big to send): stop loudly."""


class RequestError(Exception):
    """A request got no answer; the subclasses say why."""


class Refused(RequestError):
    """The peer answered that it will not serve this. ``serve`` raises it with its reason to refuse."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RequestTimeout(RequestError):
    """No answer came within the time that the caller gave."""


class PeerGone(RequestError):
    """There is no connection to that peer, or it ended before the answer came."""


class TooManyRequests(RequestError):
    """Too many requests are outstanding to that peer, or the peer says that it is busy: try later or
    elsewhere."""


class ConnectFailed(Exception):
    """A dial did not succeed; the text says why. Expected in normal life: counted and tried again."""


class StreamClosed(Exception):
    """The byte stream ended or broke; nothing more will come or go."""
