"""The metrics that Prometheus reads at /metrics."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("threestage_requests_total", "Requests by route and status", ["route", "status"])
LIMITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300)
"""Seconds up to which times are counted together; the last is what an answer may take."""
SECONDS = Histogram(
    "threestage_request_seconds", "Time from a request to the end of its answer", ["route"], buckets=LIMITS
)
FIRST_TOKEN = Histogram("threestage_first_token_seconds", "Time from a request to its first streamed text", ["version"])
TOKENS = Counter("threestage_tokens_total", "Tokens written", ["version"])
GUARDED = Counter("threestage_guarded_total", "Requests that a guard answered", ["version"])
EMAILS = Counter("threestage_emails_total", "Emails classified", ["version"])
FEEDBACK = Counter("threestage_feedback_total", "Rows of feedback kept", ["dataset"])
RUNNING = Gauge("threestage_running", "Texts that are written now", ["version"])
WAITING = Gauge("threestage_waiting", "Requests that wait for a row", ["version"])
