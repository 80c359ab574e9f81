"""What /metrics tells, in Prometheus' form and a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwenctl.services.reply import ReplyDone
from qwenctl.services.serving.engine_runner import RunnerCounters

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_PATHS = frozenset(
    {
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/chat/completions/control",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)  # what else is asked for is counted as one, or a scanner would fill the memory with names
_METHODS = frozenset({"GET", "POST"})


class ServerMetrics:
    """Counts requests, and asks for the rest when it is read."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "qwenctl_http_requests", "Answered HTTP requests.", ("method", "path", "status"), registry=self._registry
        )
        self._first = Histogram(
            "qwenctl_time_to_first_token_seconds", "From submission to the first token.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._whole = Histogram(
            "qwenctl_answer_seconds", "From submission to the last token.", buckets=_SECONDS, registry=self._registry
        )
        self.n_loads = Counter("qwenctl_model_loads", "Models loaded.", registry=self._registry)
        self.is_loaded = Gauge("qwenctl_model_loaded", "Whether a model is in memory.", registry=self._registry)

    def count_request(self, method: str, path: str, status: int | None) -> None:
        """Count an answered request; status None: the client was gone before."""
        known = path if path in _PATHS else "other"
        verb = method if method in _METHODS else "other"
        self._requests.labels(verb, known, "gone" if status is None else str(status)).inc()

    def count_reply(self, done: ReplyDone) -> None:
        """Count a reply of the engine."""
        first_s = done.timing.queued_s + done.timing.prefill_s
        self._first.observe(first_s)
        self._whole.observe(first_s + done.timing.decode_s)

    def watch_engine(self, load: Callable[[], tuple[int, int]], counters: Callable[[], RunnerCounters]) -> None:
        """Report what these return whenever the metrics are read: (running, waiting) answers; counts since the start.

        Counts must never fall, whichever model is loaded.
        """
        self._registry.register(_EngineCollector(load, counters))

    def text(self) -> bytes:
        """Return the metrics."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, load: Callable[[], tuple[int, int]], counters: Callable[[], RunnerCounters]) -> None:
        self._load = load
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        running, waiting = self._load()
        yield GaugeMetricFamily("qwenctl_answers_running", "Answers being computed.", value=running)
        yield GaugeMetricFamily("qwenctl_answers_waiting", "Answers that wait for room.", value=waiting)
        found = self._counters()
        for name, text, value in (
            ("steps", "Computations of the engine.", found.n_steps),
            ("busy_seconds", "Spent in computations.", found.busy_s),
            ("prompt_tokens", "Tokens of prompts.", found.n_prompt_tokens),
            ("cached_tokens", "Of them, taken from the KV cache.", found.n_cached_tokens),
            ("generated_tokens", "Tokens generated.", found.n_generated_tokens),
        ):
            yield CounterMetricFamily(f"qwenctl_engine_{name}", text, value=value)
        ended = CounterMetricFamily("qwenctl_answers", "Answers by how they ended.", labels=("reason",))
        for reason, n in found.n_ended.items():
            ended.add_metric((reason.value,), n)
        yield ended
