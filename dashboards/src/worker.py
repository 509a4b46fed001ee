"""One worker."""

from panels import CHOSEN, GREEN, ORANGE, RED, board, choice, level, lines, quantile, query, row, stat, total

WORKERS = "prefill|decode"
JOB = choice("job", "Kind", f'label_values(up{{job=~"{WORKERS}"}}, job)')
INSTANCE = choice("instance", "Worker", f'label_values(up{{job=~"$job",job=~"{WORKERS}"}}, instance)', every=False)

BUSY = total("tandem_worker_step_seconds_total")

GLANCE = row(
    "At a glance",
    stat("Ready", "1 while it would take a job.", "short", level("tandem_worker_ready"), colours=(RED, (1, GREEN))),
    stat("Busy", "Share of time spent in steps.", "percentunit", BUSY, max=1),
    stat("Pages held", "Share of KV pages held by sequences.", "percentunit", level("vllm:kv_cache_usage_perc"),
         colours=(GREEN, (0.8, ORANGE), (0.95, RED)), max=1),
    stat("Waiting", "Sequences accepted without a token yet.", "short", level("vllm:num_requests_waiting")),
    stat("Outside the model", "Share of the last second's steps that was not spent in the model.", "percentunit",
         level("tandem_step_overhead_ratio"), colours=(GREEN, (0.1, ORANGE), (0.3, RED))),
    stat("Leaked pages", "KV pages held by nobody known: anything but 0 is a defect.", "short", level("tandem_worker_leaked_pages"),
         colours=(GREEN, (1, RED))),
)

WORK = row(
    "What it does",
    lines("Sequences", "Sequences that generate, and those that wait for their first token.", "short",
          [query(level("vllm:num_requests_running"), "generating"), query(level("vllm:num_requests_waiting"), "waiting")]),
    lines("Its assignment", "Share of its steps that is open to prefill; 1 on the second line while it drains.", "percentunit",
          [query(level("tandem_worker_prefill_share"), "open to prefill"), query(level("tandem_worker_draining"), "draining")], max=1),
    lines("Waiting prompt tokens", "Prompt tokens accepted and not yet computed.", "short", [query(level("tandem_worker_waiting_tokens"), "waiting")]),
    lines("Tokens", "Tokens per second: prompt tokens by source, and tokens generated.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", by="source", rare=True), "prompt, {{source}}"),
           query(total("tandem_worker_generated_tokens_total"), "generated")]),
    lines("Where its steps' time goes", "Share of time in the model, copying blocks out, and everything else; what is missing to 1 is idle.", "percentunit",
          [query(total("tandem_worker_step_seconds_total", by="part"), "{{part}}")], stacked=True, max=1),
    lines("Steps", "Steps that computed something, per second.", "ops", [query(total("tandem_worker_steps_total"), "steps")]),
    lines("Outside the model over time", "Share of steps' time that was not spent in the model, second by second.", "percentunit",
          [query(level("tandem_step_overhead_ratio"), "overhead")], max=1),
    lines("Time of a step", "Mean over the window, in the model and altogether; the share board above says how often.", "s",
          [query(f"{BUSY} / ({total('tandem_worker_steps_total')} > 0) or on() vector(0)", "whole step"),
           query("sum(rate(tandem_worker_step_seconds_total{" + CHOSEN + ',part="model"}[$__rate_interval])) / ('
                 + total("tandem_worker_steps_total") + " > 0) or on() vector(0)", "in the model")]),
)

KV = row(
    "Its KV",
    lines("Pages by state", "Free, holding a block that nobody uses now, held by sequences. They always add up to the pool.", "short",
          [query(level("tandem_worker_kv_pages", by="state"), "{{state}}")], stacked=True),
    lines("Bytes moved", "Bytes of KV blocks put into the store and pulled out of it.", "Bps",
          [query(total("tandem_worker_stored_bytes_total"), "stored"), query(total("tandem_worker_pulled_bytes_total"), "pulled")]),
    lines("Asked of the store", "Blocks asked for, and those the store had.", "ops",
          [query(total("tandem_worker_store_queries_total"), "asked"), query(total("tandem_worker_store_hits_total"), "found")]),
)

STAGES = row(
    "How long requests are in each stage here",
    *(lines(f"Stages, {name}", f"{meaning} A dot is one request and leads to its trace.", "s",
            [query(quantile("tandem_stage_seconds", q, by="stage"), "{{stage}}", exemplar=True)])
      for name, q, meaning in (
          ("p50", "0.5", "Half of the requests spent less than this."),
          ("p90", "0.9", "One in ten spent more than this."),
          ("p99", "0.99", "One in a hundred spent more than this."))),
)

TROUBLE = row(
    "What went wrong",
    lines("Refused, failed, cancelled", "Jobs per second that ended without an answer from this worker.", "cps",
          [query(total("tandem_worker_refused_total", by="class", rare=True), "refused {{class}}"),
           query(total("tandem_worker_failed_total", by="class", rare=True), "failed {{class}}"),
           query(total("tandem_worker_cancelled_total", by="reason", rare=True), "cancelled {{reason}}")]),
    lines("Blocks", "Blocks that came damaged, pulls that ended early, blocks not stored, lookups the store did not answer.", "cps",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged"), query(total("tandem_worker_pulls_failed_total"), "pulls ended early"),
           query(total("tandem_worker_unstored_blocks_total"), "not stored"),
           query(total("tandem_worker_store_lookups_failed_total"), "lookups failed")]),
    lines("Preemption and fencing", "Sequences whose pages were taken for older ones, messages of superseded attempts, hand-overs nobody took.", "cps",
          [query(total("vllm:num_preemptions_total"), "preemptions"), query(total("tandem_worker_fenced_total"), "fenced"),
           query(total("tandem_worker_handovers_failed_total"), "hand-overs failed")]),
)

BOARD = board("worker", "one worker", "Everything about the worker chosen above.", [GLANCE, WORK, STAGES, KV, TROUBLE], (JOB, INSTANCE))
