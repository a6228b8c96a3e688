"""Figures for Prometheus: ``/metrics``. No figure tells what anybody asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sapwood.endpoint.library import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        add: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("sapwood_requests", "Requests", ["path", "model", "status"], **add)
        self.prompt_tokens = Counter("sapwood_prompt_tokens", "Tokens read", ["model"], **add)
        self.tokens = Counter("sapwood_completion_tokens", "Tokens written", ["model"], **add)
        self.first = Histogram(
            "sapwood_time_to_first_token_seconds", "To the first token", ["model"], buckets=SECONDS, **add
        )
        self.seconds = Histogram(
            "sapwood_request_seconds", "Whole requests", ["model"], buckets=SECONDS, **add
        )
        self._busy = Gauge("sapwood_answers_running", "Answers being written", ["engine"], **add)
        self._waiting = Gauge("sapwood_requests_waiting", "Requests in the queue", ["engine"], **add)
        self._restarts = Gauge(
            "sapwood_engine_restarts", "Times that an engine was revived", ["engine"], **add
        )

    def render(self, engines: Iterable[Engine]) -> bytes:
        for engine in engines:
            self._busy.labels(engine.kind).set(engine.slots.busy)
            self._waiting.labels(engine.kind).set(engine.slots.waiting)
            self._restarts.labels(engine.kind).set(engine.restarts)
        return generate_latest(self.registry)
