"""A load run in progress."""

from panels import CHOSEN, GREEN, ORANGE, RED, board, choice, heat, level, lines, quantiles, query, row, stat, total

JOB = choice("job", "Load", 'label_values(up{job=~"loadgen.*"}, job)')
INSTANCE = choice("instance", "Generator", 'label_values(up{job=~"$job",job=~"loadgen.*"}, instance)')
# The server's side of the same requests.
SERVER = 'job="gateway"'
TTFT = "vllm:time_to_first_token_seconds"


def so_far(q):
    return query(f"max(loadgen_ttft_{q}_seconds{{{CHOSEN}}})", f"{q}, so far")


def share_good():
    return f"({total('loadgen_requests_good_total', rare=True)}) / ({total('loadgen_requests_finished_total')} > 0) or on() vector(0)"


GLANCE = row(
    "At a glance",
    stat("Offered", "Requests per second of the schedule.", "reqps", total("loadgen_requests_offered_total")),
    stat("Sent", "Requests per second that were sent. Less than offered means that the generator or its limits hold the load back.", "reqps",
         total("loadgen_requests_sent_total")),
    stat("In flight", "Requests sent and not finished.", "short", level("loadgen_in_flight")),
    stat("Worst lag", "Largest delay so far between a request's intended time and its handling. The run verdict uses the 99th percentile.", "s",
         level("loadgen_lag_max_seconds", how="max"), colors=(GREEN, (0.001, ORANGE), (0.02, RED))),
    stat("Good requests", "Share of finished requests that met every SLO of the run. 0 without SLOs.", "percentunit", share_good(), max=1),
    stat("Failed", "Requests per second that failed.", "reqps", total("loadgen_requests_failed_total"), colors=(GREEN, (1e-9, RED))),
)

RATES = row(
    "Load",
    lines("Offered and achieved", "Requests per second of the schedule, sent, and finished. If sent is below offered, see lag and drops. "
          "If finished is below sent, the server falls behind and requests in flight grow.", "reqps",
          [query(total("loadgen_requests_offered_total"), "offered"), query(total("loadgen_requests_sent_total"), "sent"),
           query(total("loadgen_requests_finished_total"), "finished")], width=12),
    lines("In flight at the client", "Requests in flight at the client and at the gateway. The difference is on the network.", "short",
          [query(level("loadgen_in_flight"), "client"), query(level("vllm:num_requests_running", SERVER), "gateway")], width=12),
    lines("Failed and dropped", "Requests per second that failed, and that were not sent because too many were in flight.", "reqps",
          [query(total("loadgen_requests_failed_total"), "failed"), query(total("loadgen_requests_dropped_total"), "dropped")]),
    lines("Good requests per second", "Requests per second that met every SLO of the run, and that finished: goodput and throughput.", "reqps",
          [query(total("loadgen_requests_good_total", rare=True), "good"), query(total("loadgen_requests_finished_total"), "finished")]),
    lines("Worst lag so far", "Largest delay so far between a request's intended time and its handling. A step is one pause of the generator.", "s",
          [query(level("loadgen_lag_max_seconds", how="max"), "worst")]),
)

LATENCIES = row(
    "Latency at client and server",
    lines("Time to first token, at the client", "Quantiles since the start of the run, from the intended time, so waiting counts.",
          "s", [so_far("p50"), so_far("p90"), so_far("p99")]),
    lines("Time to first token, at the server", "Time from the request's arrival at the gateway. A dot is one request and opens its trace.",
          "s", quantiles(TTFT, SERVER)),
    heat("Time to first token at the server, distribution", "Requests per second in each bucket.", TTFT, SERVER),
    lines("Tokens", "Chunks of text per second at the client, and output tokens of the server.", "short",
          [query(total("loadgen_tokens_total"), "client"), query(total("vllm:generation_tokens_total", SERVER), "server")]),
    lines("Waiting at the workers", "Sequences without a token yet, by role: where the load queues.", "short",
          [query(level("vllm:num_requests_waiting", 'job=~"prefill|decode"', "job"), "{{job}}")]),
    lines("Cached share of prompts", "Share of prompt tokens that were not computed, because of shared prefixes.", "percentunit",
          [query(f"{total('tandem_gateway_cached_prompt_tokens_total', SERVER)} / ({total('vllm:prompt_tokens_total', SERVER)} > 0) or on() vector(0)", "cached")], max=1),
)

BOARD = board(
    "loadgen", "loadgen run", "A load while it runs: the schedule, and the latency at client and server.",
    [GLANCE, RATES, LATENCIES], (JOB, INSTANCE),
)
