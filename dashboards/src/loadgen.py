"""A load run, while it goes on."""

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
    stat("Offered", "Requests per second that the schedule asks for.", "reqps", total("loadgen_requests_offered_total")),
    stat("Sent", "Requests per second that were sent: less than offered means that the generator or its limits hold the load back.", "reqps",
         total("loadgen_requests_sent_total")),
    stat("In flight", "Requests sent and not over.", "short", level("loadgen_in_flight")),
    stat("Worst lag", "The latest that a request was issued so far in this run; the run's verdict looks at the 99th percentile.", "s",
         level("loadgen_lag_max_seconds", how="max"), colours=(GREEN, (0.001, ORANGE), (0.02, RED))),
    stat("Good requests", "Share of finished requests that met every SLO of the run; 0 when it has none.", "percentunit", share_good(), max=1),
    stat("Failed", "Requests per second that failed.", "reqps", total("loadgen_requests_failed_total"), colours=(GREEN, (1e-9, RED))),
)

RATES = row(
    "Is the load what was asked for?",
    lines("Offered and achieved", "Requests per second by the schedule, sent, and over. Sent below offered: see lag and drops. Over below sent: the "
          "server falls behind, and what is in flight grows.", "reqps",
          [query(total("loadgen_requests_offered_total"), "offered"), query(total("loadgen_requests_sent_total"), "sent"),
           query(total("loadgen_requests_finished_total"), "over")], width=12),
    lines("In flight at the client", "Requests sent and not over, beside those that the gateway has open. They differ by what is on the way.", "short",
          [query(level("loadgen_in_flight"), "client"), query(level("vllm:num_requests_running", SERVER), "gateway")], width=12),
    lines("Failed and dropped", "Requests per second that failed, and that were not sent since too many were in flight.", "reqps",
          [query(total("loadgen_requests_failed_total"), "failed"), query(total("loadgen_requests_dropped_total"), "dropped")]),
    lines("Good requests per second", "Requests that met every SLO of the run, beside those that are over: goodput and throughput.", "reqps",
          [query(total("loadgen_requests_good_total", rare=True), "good"), query(total("loadgen_requests_finished_total"), "over")]),
    lines("Worst lag so far", "The latest that a request was issued. Steps are single pauses of the generator.", "s",
          [query(level("loadgen_lag_max_seconds", how="max"), "worst")]),
)

FELT = row(
    "What it feels, and what the server says of it",
    lines("Time to first token, at the client", "Quantiles since the run began, from the time that the schedule intended: what the server makes wait "
          "for counts.", "s", [so_far("p50"), so_far("p90"), so_far("p99")]),
    lines("Time to first token, at the server", "From the request's arrival at the gateway, over the window. A dot is one request and leads to its trace.",
          "s", quantiles(TTFT, SERVER)),
    heat("Time to first token at the server, spread", "Requests per second in each bucket.", TTFT, SERVER),
    lines("Tokens", "Chunks of text that reached the client per second, and tokens that the server generated.", "short",
          [query(total("loadgen_tokens_total"), "client"), query(total("vllm:generation_tokens_total", SERVER), "server")]),
    lines("Waiting at the workers", "Sequences without a token yet, by kind of worker: where the load queues.", "short",
          [query(level("vllm:num_requests_waiting", 'job=~"prefill|decode"', "job"), "{{job}}")]),
    lines("Cached share of prompts", "Share of prompt tokens that were not computed: what the trace's prefixes bring.", "percentunit",
          [query(f"{total('tandem_gateway_cached_prompt_tokens_total', SERVER)} / ({total('vllm:prompt_tokens_total', SERVER)} > 0) or on() vector(0)", "cached")], max=1),
)

BOARD = board(
    "loadgen", "loadgen run", "A load while it runs: whether the generator keeps its schedule, and what client and server see of it.",
    [GLANCE, RATES, FELT], (JOB, INSTANCE),
)
