"""/metrics in the Prometheus text format, one registry per peer. Names begin with gridpact_."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from node.api.core import Api, api_of
from node.api.guard import Guard

_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")


class PeerCollector(Collector):
    """The figures of a peer and of its API, read when asked."""

    def __init__(self, api: Api, guard: Guard) -> None:
        self._api = api
        self._guard = guard

    def collect(self) -> Iterable[Metric]:
        """One family for each name."""
        rows = list(self._api.peer.metrics())
        rows += [
            ("api_requests_total", {"status": str(s)}, n, "counter") for s, n in self._guard.requests.items()
        ]
        rows += [
            ("api_refused_total", {"rule": name.removeprefix("refused.")}, count, "counter")
            for name, count in self._api.counts.items()
        ]
        rows.append(("api_requests_running", {}, self._guard.running, "gauge"))
        rows.append(("api_event_clients", {}, self._api.event_clients.total, "gauge"))
        families: dict[str, Metric] = {}
        for name, labels, value, kind in rows:
            family = families.get(name)
            if family is None:
                family = families[name] = _family(name, tuple(labels), kind)
            family.add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
        return families.values()


def _family(name: str, labels: tuple[str, ...], kind: str) -> Metric:
    full = "gridpact_" + _NAME.sub("_", name)
    text = name.replace("_", " ")
    if kind == "counter":
        return CounterMetricFamily(full.removesuffix("_total"), text, labels=labels)
    return GaugeMetricFamily(full, text, labels=labels)


def make_registry(api: Api, guard: Guard) -> CollectorRegistry:
    """The registry of one peer."""
    registry = CollectorRegistry()
    registry.register(PeerCollector(api, guard))
    return registry


async def metrics(request: Request) -> Response:
    registry: CollectorRegistry = request.app.state.registry
    api_of(request)
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
