"""What the server counts, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # they would double the list

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One server's numbers; every name begins with ``fairseq_mem_``."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fairseq_mem_{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"fairseq_mem_{name}", text, buckets=buckets, registry=self._registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"fairseq_mem_{name}", text, registry=self._registry)

        self.requests = counter("requests", "Requests by path and status.", "path", "status")
        self.sentences = counter("sentences", "Sentences translated.", "pair")
        self.source_tokens = counter("source_tokens", "Subword tokens translated.", "pair")
        self.target_tokens = counter("target_tokens", "Subword tokens of the best ones.", "pair")
        self.left = counter("left", "Requests whose client went away before the answer.")
        self.reloads = counter("reloads", "Folders loaded again, by result.", "result")
        self.seconds = histogram("request_seconds", "From a request to its answer.", SECONDS)
        self.waited = histogram("queue_seconds", "From a sentence's arrival to its batch.", SECONDS)
        self.batch = histogram("batch_sentences", "Sentences that went together.", SIZES)
        self.under_way = gauge("requests_under_way", "Requests not answered yet.")
        self.queued = gauge("queue_sentences", "Sentences that wait for a batch.")

    def exposition(self) -> bytes:
        """The numbers in Prometheus' text format."""
        return generate_latest(self._registry)
