"""Is it healthy?"""

from panels import (
    CHOSEN, GREEN, INSTANCE, JOB, MODEL, MODELS, ORANGE, RED, SERVICES,
    among, board, heat, latency, level, lines, quantile, query, row, stat, total,
)

TTFT = "vllm:time_to_first_token_seconds"
ITL = "vllm:inter_token_latency_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"
LATENCY = "vllm:e2e_request_latency_seconds"
ANSWERS = "tandem_gateway_responses_total"
SERVER_FAULT = CHOSEN + ',status=~"5.."'

# The bounds of buckets: only for these is the share known and not guessed.
SLO = among("slo", "TTFT limit, s", ["0.1", "0.25", "0.5", "1.0", "2.5", "5.0"], "0.5")


def within_limit():
    return f"sum(rate({TTFT}_bucket{{{MODEL},le=\"$slo\"}}[$__rate_interval])) / {total(TTFT + '_count', MODEL)}"


def error_share():
    return f"({total(ANSWERS, SERVER_FAULT, rare=True)}) / ({total(ANSWERS, rare=True)} > 0) or on() vector(0)"


GLANCE = row(
    "At a glance",
    stat("Services up", "Processes that Prometheus reaches, over those it knows.", "percentunit",
         f'sum(up{{job=~"{SERVICES}"}}) / count(up{{job=~"{SERVICES}"}})', colours=(RED, (1, GREEN)), width=3),
    stat("Alerts firing", "Alert rules that hold now; rules.yml says what to do about each.", "short",
         'count(ALERTS{alertstate="firing",alertname=~"Tandem.*"}) or on() vector(0)', colours=(GREEN, (1, RED)), width=3),
    stat("Requests", "Answers to generation requests per second, whatever their status.", "reqps", total(ANSWERS, rare=True), width=3),
    stat("Server errors", "Share of answers with a 5xx status.", "percentunit", error_share(),
         colours=(GREEN, (0.001, ORANGE), (0.01, RED)), width=3),
    stat("TTFT p50", "Half of the requests got their first token sooner than this.", "s", quantile(TTFT, "0.5", MODEL), width=3),
    stat("TTFT p99", "One request in a hundred waited longer than this for its first token.", "s", quantile(TTFT, "0.99", MODEL), width=3),
    stat("Within the TTFT limit", "Share of requests whose first token came within the limit chosen above.", "percentunit",
         within_limit(), colours=(RED, (0.95, ORANGE), (0.99, GREEN)), width=3),
    stat("Leaked pages", "KV pages held by nobody known: anything but 0 is a defect.", "short", level("tandem_worker_leaked_pages"),
         colours=(GREEN, (1, RED)), width=3),
)

DEMAND = row(
    "What is asked, and how it ends",
    lines("Choices that ended", "Generations that ended per second, by reason.", "reqps",
          [query(total("vllm:request_success_total", MODEL, "finished_reason", rare=True), "{{finished_reason}}")], stacked=True),
    lines("Answers by status", "Answers to generation requests per second: 2xx served, 4xx refused for what was asked, 429 and 503 "
          "refused for lack of room, other 5xx failed.", "reqps", [query(total(ANSWERS, by="status", rare=True), "{{status}}")]),
    lines("Open requests", "Sequences that generate, and those that wait for their first token, by service; the gateway counts "
          "requests from arrival to end.", "short",
          [query(level("vllm:num_requests_running", by="job"), "running, {{job}}"),
           query(level("vllm:num_requests_waiting", by="job"), "waiting, {{job}}")]),
    lines("Tokens", "Prompt tokens taken in and output tokens given out per second; cached ones were not computed.", "short",
          [query(total("vllm:prompt_tokens_total", MODEL), "prompt"),
           query(total("tandem_gateway_cached_prompt_tokens_total", MODEL), "prompt, cached"),
           query(total("vllm:generation_tokens_total", MODEL), "generated")]),
    lines("Processes up", "Processes that Prometheus reaches, by service: a step down is a crash or a scale-down.", "short",
          [query(f"sum by (job) (up{{{CHOSEN}}})", "{{job}}")]),
    lines("Share within the TTFT limit", "Share of requests whose first token came within the limit chosen at the top of the page: the "
          "server's half of goodput.", "percentunit", [query(within_limit(), "within ${slo} s")], max=1),
)

LATENCIES = row(
    "What a client feels",
    latency("Time to first token", "From a request's arrival at the gateway to its first token.", TTFT, MODEL, 6),
    latency("Inter-token latency", "Between two tokens of one choice.", ITL, MODEL, 6),
    latency("Request latency", "From a request's arrival to its end.", LATENCY, MODEL, 6),
    latency("Time per output token", "Mean over a request, after its first token; the quantiles are over requests.", TPOT, MODEL, 6),
    heat("Time to first token, spread", "Requests per second in each bucket: two bands are two kinds of request, which no quantile shows.", TTFT, MODEL),
    heat("Inter-token latency, spread", "Tokens per second in each bucket.", ITL, MODEL),
    heat("Request latency, spread", "Requests per second in each bucket.", LATENCY, MODEL),
)

TROUBLE = row(
    "When things go wrong",
    lines("Retries and fencing", "Attempts after the first, and messages of attempts that were superseded: at rest, none.", "cps",
          [query(total("tandem_gateway_retries_total"), "retries"),
           query(total("tandem_gateway_fenced_events_total"), "fenced at the gateway"),
           query(total("tandem_worker_fenced_total"), "fenced at workers"),
           query(total("tandem_gateway_gaps_total"), "token gaps"),
           query(total("tandem_gateway_cancels_total"), "cancellations sent")]),
    lines("Refused and failed at workers", "Jobs refused for lack of room or while draining, and requests that failed, by class.", "cps",
          [query(total("tandem_worker_refused_total", by="class", rare=True), "refused {{class}}"),
           query(total("tandem_worker_failed_total", by="class", rare=True), "failed {{class}}"),
           query(total("tandem_worker_cancelled_total", by="reason", rare=True), "cancelled {{reason}}")]),
    lines("Damage and loss", "Blocks that came damaged, pulls that ended early, hand-overs nobody took, connections lost.", "cps",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged blocks"),
           query(total("tandem_worker_pulls_failed_total"), "pulls ended early"),
           query(total("tandem_worker_handovers_failed_total"), "hand-overs failed"),
           query(total("tandem_kvstore_disconnects_total"), "kvstore lost NATS"),
           query(f"sum(1 - tandem_bus_connected{{{CHOSEN}}})", "now without NATS")]),
    lines("Trace spans", "Spans per second: taken by the collector, refused by it, and of requests outside the sample those kept since they failed or were "
          "slow, let go since they went well, or pushed out for want of room.", "cps",
          [query(total(f"tandem_trace_spans_{name}_total"), legend) for name, legend in (
              ("exported", "exported"), ("export_failed", "refused"), ("kept", "kept"), ("forgotten", "let go"), ("pushed_out", "pushed out"))]),
)

OBJECTIVE = row(
    "The objective: 99 % of first tokens within 2.5 s",
    lines("Burn rate", "How fast the 1 % of requests that may be late is used up: 1 lasts just as long as it should, 14.4 over an hour wakes somebody, "
          "6 over six hours is for the next morning.", "short",
          [query('tandem:ttft_misses:ratio_rate5m{model_name=~"$model"} / 0.01', "{{model_name}}, 5 min"),
           query('tandem:ttft_misses:ratio_rate1h{model_name=~"$model"} / 0.01', "{{model_name}}, 1 h"),
           query('tandem:ttft_misses:ratio_rate6h{model_name=~"$model"} / 0.01', "{{model_name}}, 6 h")]),
    lines("Server errors over five minutes", "Share of answers with a 5xx status; above 1 % the alert fires.", "percentunit",
          [query("tandem:request_errors:ratio_rate5m or on() vector(0)", "5xx")]),
    lines("Alerts over time", "Rules that hold, by name: pending ones wait to be sure.", "short",
          [query('count by (alertname, alertstate) (ALERTS{alertname=~"Tandem.*"}) or on() vector(0)', "{{alertname}} {{alertstate}}")]),
)

BOARD = board(
    "health", "is it healthy?", "How requests fare, who is up, and whether anything is wrong. Start here.",
    [GLANCE, DEMAND, LATENCIES, OBJECTIVE, TROUBLE], (JOB, INSTANCE, MODELS, SLO),
)
