"""What Prometheus is told. A label's values are fixed lists: nothing that a client sends becomes one."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
OTHER = "other"


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("mmjax_requests", "Answered requests.", ("endpoint", "status"), registry=registry)
        self._request_secs = Histogram(
            "mmjax_request_seconds",
            "From the first byte to the answer.",
            ("endpoint",),
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter("mmjax_refused", "Refused requests, by reason.", ("reason",), registry=registry)
        self._batch_rows = Histogram(
            "mmjax_batch_rows", "Rows of a batch.", ("tower",), buckets=ROWS, registry=registry
        )
        self._batch_secs = Histogram(
            "mmjax_batch_seconds", "The model's time for a batch.", ("tower",), buckets=SECONDS, registry=registry
        )
        self._inside = Gauge(
            "mmjax_inside", "Images, texts or bytes accepted and not answered yet.", ("what",), registry=registry
        )

    def answered(self, endpoint: str, status: int, secs: float) -> None:
        self._requests.labels(endpoint, str(status)).inc()
        self._request_secs.labels(endpoint).observe(secs)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def batch(self, tower: str, rows: int, secs: float) -> None:
        self._batch_rows.labels(tower).observe(rows)
        self._batch_secs.labels(tower).observe(secs)

    def watch(self, what: str, count: Callable[[], float]) -> None:
        """Shows what `count` returns at the time that it is asked for."""
        self._inside.labels(what).set_function(count)

    def page(self) -> bytes:
        return generate_latest(self._registry)
