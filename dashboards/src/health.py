"""Is it healthy?"""

from panels import CHOSEN, GREEN, INSTANCE, JOB, MODEL, MODELS, ORANGE, RED, SERVICES, among, board, heat, latency, level, lines, quantile, query, row, stat, total

TTFT = "vllm:time_to_first_token_seconds"
ITL = "vllm:inter_token_latency_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"
LATENCY = "vllm:e2e_request_latency_seconds"
ANSWERS = "tandem_gateway_responses_total"
SERVER_FAULT = CHOSEN + ',status=~"5.."'

# Bounds of buckets: the share is counted for these, and would be interpolated for others.
SLO = among("slo", "TTFT limit, s", ["0.1", "0.25", "0.5", "1.0", "2.5", "5.0"], "0.5")


def within_limit():
    return f"sum(rate({TTFT}_bucket{{{MODEL},le=\"$slo\"}}[$__rate_interval])) / {total(TTFT + '_count', MODEL)}"


def error_share():
    return f"({total(ANSWERS, SERVER_FAULT, rare=True)}) / ({total(ANSWERS, rare=True)} > 0) or on() vector(0)"


GLANCE = row(
    "At a glance",
    stat("Services up", "Share of the known processes that Prometheus can scrape.", "percentunit",
         f'sum(up{{job=~"{SERVICES}"}}) / count(up{{job=~"{SERVICES}"}})', colors=(RED, (1, GREEN)), width=3),
    stat("Alerts firing", "Alerts that fire now. Each alert's annotation says what to do.", "short",
         'count(ALERTS{alertstate="firing",alertname=~"Tandem.*"}) or on() vector(0)', colors=(GREEN, (1, RED)), width=3),
    stat("Requests", "Responses to generation requests per second, with any status.", "reqps", total(ANSWERS, rare=True), width=3),
    stat("Server errors", "Share of responses with a 5xx status.", "percentunit", error_share(),
         colors=(GREEN, (0.001, ORANGE), (0.01, RED)), width=3),
    stat("TTFT p50", "Half of the requests get their first token within this time.", "s", quantile(TTFT, "0.5", MODEL), width=3),
    stat("TTFT p99", "One request in a hundred waits longer than this for its first token.", "s", quantile(TTFT, "0.99", MODEL), width=3),
    stat("Within the TTFT limit", "Share of requests whose first token arrives within the limit chosen above.", "percentunit",
         within_limit(), colors=(RED, (0.95, ORANGE), (0.99, GREEN)), width=3),
    stat("Leaked pages", "KV pages held by no known sequence. Any value above 0 is a defect.", "short", level("tandem_worker_leaked_pages"),
         colors=(GREEN, (1, RED)), width=3),
)

DEMAND = row(
    "Load and outcomes",
    lines("Choices that ended", "Choices that ended per second, by finish reason.", "reqps",
          [query(total("vllm:request_success_total", MODEL, "finished_reason", rare=True), "{{finished_reason}}")], stacked=True),
    lines("Responses by status", "Responses to generation requests per second: 2xx served, 4xx invalid, 429 and 503 refused for lack of "
          "room, other 5xx failed.", "reqps", [query(total(ANSWERS, by="status", rare=True), "{{status}}")]),
    lines("Requests in flight", "Sequences that generate, and those that wait for their first token, by service. The gateway counts "
          "requests from arrival to end.", "short",
          [query(level("vllm:num_requests_running", by="job"), "running, {{job}}"),
           query(level("vllm:num_requests_waiting", by="job"), "waiting, {{job}}")]),
    lines("Tokens", "Prompt tokens and output tokens per second. Cached prompt tokens were not computed.", "short",
          [query(total("vllm:prompt_tokens_total", MODEL), "prompt"),
           query(total("tandem_gateway_cached_prompt_tokens_total", MODEL), "prompt, cached"),
           query(total("vllm:generation_tokens_total", MODEL), "generated")]),
    lines("Processes up", "Processes that Prometheus can scrape, by service. A step down is a crash or a scale-down.", "short",
          [query(f"sum by (job) (up{{{CHOSEN}}})", "{{job}}")]),
    lines("Share within the TTFT limit", "Share of requests whose first token arrives within the limit chosen at the top of the page: the "
          "server's part of goodput.", "percentunit", [query(within_limit(), "within ${slo} s")], max=1),
)

LATENCIES = row(
    "Latency for clients",
    latency("Time to first token", "Time from a request's arrival at the gateway to its first token.", TTFT, MODEL, 6),
    latency("Inter-token latency", "Time between two consecutive tokens of a choice.", ITL, MODEL, 6),
    latency("Request latency", "Time from a request's arrival to its end.", LATENCY, MODEL, 6),
    latency("Time per output token", "Mean of each request after its first token; the quantiles are over requests.", TPOT, MODEL, 6),
    heat("Time to first token, distribution", "Requests per second in each bucket. Two bands are two kinds of request, which no quantile shows.",
         TTFT, MODEL),
    heat("Inter-token latency, distribution", "Tokens per second in each bucket.", ITL, MODEL),
    heat("Request latency, distribution", "Requests per second in each bucket.", LATENCY, MODEL),
)

TROUBLE = row(
    "Failures",
    lines("Retries and stale attempts", "Attempts after the first, and messages of stale attempts. A healthy system has none.", "cps",
          [query(total("tandem_gateway_retries_total"), "retries"),
           query(total("tandem_gateway_stale_attempt_events_total"), "stale attempts, gateway"),
           query(total("tandem_worker_stale_attempt_messages_total"), "stale attempts, workers"),
           query(total("tandem_gateway_gaps_total"), "token gaps"),
           query(total("tandem_gateway_cancels_total"), "cancellations sent")]),
    lines("Refused and failed at workers", "Jobs refused for lack of room or while draining, requests that failed, by error class, and "
          "cancellations, by reason.", "cps",
          [query(total("tandem_worker_refused_total", by="class", rare=True), "refused {{class}}"),
           query(total("tandem_worker_failed_total", by="class", rare=True), "failed {{class}}"),
           query(total("tandem_worker_cancelled_total", by="reason", rare=True), "cancelled {{reason}}")]),
    lines("Damage and loss", "Blocks received damaged, transfers that ended early, hand-overs that failed, connections lost.", "cps",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged blocks"),
           query(total("tandem_worker_pulls_failed_total"), "transfers ended early"),
           query(total("tandem_worker_handovers_failed_total"), "hand-overs failed"),
           query(total("tandem_kvstore_disconnects_total"), "kvstore lost NATS"),
           query(f"sum(1 - tandem_bus_connected{{{CHOSEN}}})", "disconnected now")]),
    lines("Trace spans", "Spans per second: accepted by the collector, not accepted, and held spans of unsampled requests: kept because "
          "the request failed or missed its SLO, forgotten because it met it, or evicted for lack of room.", "cps",
          [query(total(f"tandem_trace_spans_{name}_total"), legend) for name, legend in (
              ("exported", "exported"), ("export_failed", "not accepted"), ("kept", "kept"), ("forgotten", "forgotten"), ("evicted", "evicted"))]),
)

OBJECTIVE = row(
    "The objective: 99 % of first tokens within 2.5 s",
    lines("Burn rate", "Consumption of the 1 % of requests that may be late. 1 uses it exactly; 14.4 over one hour pages; 6 over six "
          "hours opens a ticket.", "short",
          [query('tandem:ttft_misses:ratio_rate5m{model_name=~"$model"} / 0.01', "{{model_name}}, 5 min"),
           query('tandem:ttft_misses:ratio_rate1h{model_name=~"$model"} / 0.01', "{{model_name}}, 1 h"),
           query('tandem:ttft_misses:ratio_rate6h{model_name=~"$model"} / 0.01', "{{model_name}}, 6 h")]),
    lines("Server errors over five minutes", "Share of responses with a 5xx status. Above 1 % the alert fires.", "percentunit",
          [query("tandem:request_errors:ratio_rate5m or on() vector(0)", "5xx")]),
    lines("Alerts over time", "Pending and firing alerts, by name.", "short",
          [query('count by (alertname, alertstate) (ALERTS{alertname=~"Tandem.*"}) or on() vector(0)', "{{alertname}} {{alertstate}}")]),
)

BOARD = board(
    "health", "is it healthy?", "Outcomes and latencies of requests, services, failures. Start here.",
    [GLANCE, DEMAND, LATENCIES, OBJECTIVE, TROUBLE], (JOB, INSTANCE, MODELS, SLO),
)
