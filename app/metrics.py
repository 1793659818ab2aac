"""What Prometheus reads at /metrics."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("threestage_requests_total", "Requests by route and status", ["route", "status"])
SECONDS = Histogram("threestage_request_seconds", "Time from a request to the end of its answer", ["route"])
FIRST_TOKEN = Histogram("threestage_first_token_seconds", "Time from a request to its first streamed text", ["version"])
TOKENS = Counter("threestage_tokens_total", "Tokens written", ["version"])
EMAILS = Counter("threestage_emails_total", "Emails classified", ["version"])
FEEDBACK = Counter("threestage_feedback_total", "Rows of feedback kept", ["dataset"])
RUNNING = Gauge("threestage_running", "Texts that are written now", ["version"])
WAITING = Gauge("threestage_waiting", "Requests that wait for a row", ["version"])
