"""One worker."""

from panels import CHOSEN, GREEN, ORANGE, RED, board, choice, level, lines, quantile, query, row, stat, total

WORKERS = "prefill|decode"
JOB = choice("job", "Role", f'label_values(up{{job=~"{WORKERS}"}}, job)')
INSTANCE = choice("instance", "Worker", f'label_values(up{{job=~"$job",job=~"{WORKERS}"}}, instance)', every=False)

BUSY = total("tandem_worker_step_seconds_total")

GLANCE = row(
    "At a glance",
    stat("Ready", "1 while the worker accepts jobs.", "short", level("tandem_worker_ready"), colors=(RED, (1, GREEN))),
    stat("Busy", "Share of time spent in steps.", "percentunit", BUSY, max=1),
    stat("Pages held", "Share of KV pages held by sequences.", "percentunit", level("vllm:kv_cache_usage_perc"),
         colors=(GREEN, (0.8, ORANGE), (0.95, RED)), max=1),
    stat("Waiting", "Sequences accepted that have no token yet.", "short", level("vllm:num_requests_waiting")),
    stat("Outside the model", "Share of the last second's step time spent outside the model.", "percentunit",
         level("tandem_step_overhead_ratio"), colors=(GREEN, (0.1, ORANGE), (0.3, RED))),
    stat("Leaked pages", "KV pages held by no known sequence. Any value above 0 is a defect.", "short", level("tandem_worker_leaked_pages"),
         colors=(GREEN, (1, RED))),
)

WORK = row(
    "Work",
    lines("Sequences", "Sequences that generate, and those that wait for their first token.", "short",
          [query(level("vllm:num_requests_running"), "generating"), query(level("vllm:num_requests_waiting"), "waiting")]),
    lines("Duty", "Share of the worker's steps that is open to prefill. The second line is 1 while it drains.", "percentunit",
          [query(level("tandem_worker_prefill_share"), "open to prefill"), query(level("tandem_worker_draining"), "draining")], max=1),
    lines("Waiting prompt tokens", "Prompt tokens accepted and not computed yet.",
          "short", [query(level("tandem_worker_waiting_tokens"), "waiting")]),
    lines("Tokens", "Tokens per second: prompt tokens by source, and tokens generated.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", by="source", rare=True), "prompt, {{source}}"),
           query(total("tandem_worker_generated_tokens_total"), "generated")]),
    lines("Step time by part", "Share of time in the model, in block export, and in the loop around them. The rest up to 1 is idle.", "percentunit",
          [query(total("tandem_worker_step_seconds_total", by="part"), "{{part}}")], stacked=True, max=1),
    lines("Steps", "Steps that computed at least one token, per second.", "ops", [query(total("tandem_worker_steps_total"), "steps")]),
    lines("Outside the model over time", "Share of step time spent outside the model, second by second.", "percentunit",
          [query(level("tandem_step_overhead_ratio"), "overhead")], max=1),
    lines("Step duration", "Mean duration of a step over the window, as a whole and in the model.", "s",
          [query(f"{BUSY} / ({total('tandem_worker_steps_total')} > 0) or on() vector(0)", "whole step"),
           query("sum(rate(tandem_worker_step_seconds_total{" + CHOSEN + ',part="model"}[$__rate_interval])) / ('
                 + total("tandem_worker_steps_total") + " > 0) or on() vector(0)", "in the model")]),
)

KV = row(
    "KV",
    lines("Pages by state", "Free pages, cached pages (with a block that no sequence uses), and leased pages (held by sequences). They "
          "add up to the pool.", "short",
          [query(level("tandem_worker_kv_pages", by="state"), "{{state}}")], stacked=True),
    lines("Bytes moved", "Bytes of KV blocks put into the store and received from it.", "Bps",
          [query(total("tandem_worker_stored_bytes_total"), "stored"), query(total("tandem_worker_pulled_bytes_total"), "received")]),
    lines("Lookups", "Looked-up blocks, and those that were stored.", "ops",
          [query(total("tandem_worker_store_queries_total"), "looked up"), query(total("tandem_worker_store_hits_total"), "found")]),
)

STAGES = row(
    "Stages on this worker",
    *(lines(f"Stages, {name}", f"{meaning} A dot is one request and opens its trace.", "s",
            [query(quantile("tandem_stage_seconds", q, by="stage"), "{{stage}}", exemplar=True)])
      for name, q, meaning in (
          ("p50", "0.5", "Half of the requests spend less than this in each stage."),
          ("p90", "0.9", "One request in ten spends more than this in each stage."),
          ("p99", "0.99", "One request in a hundred spends more than this in each stage."))),
)

TROUBLE = row(
    "Failures",
    lines("Refused, failed, cancelled", "Jobs per second that this worker refused, failed or cancelled.", "cps",
          [query(total("tandem_worker_refused_total", by="class", rare=True), "refused {{class}}"),
           query(total("tandem_worker_failed_total", by="class", rare=True), "failed {{class}}"),
           query(total("tandem_worker_cancelled_total", by="reason", rare=True), "cancelled {{reason}}")]),
    lines("Blocks", "Blocks received damaged, transfers that ended early, failed puts, failed lookups.", "cps",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged"), query(total("tandem_worker_pulls_failed_total"), "transfers ended early"),
           query(total("tandem_worker_put_failed_blocks_total"), "failed puts"),
           query(total("tandem_worker_store_lookups_failed_total"), "lookups failed")]),
    lines("Preemptions and stale attempts", "Preempted sequences, messages of stale attempts, hand-overs that no decode worker accepted.", "cps",
          [query(total("vllm:num_preemptions_total"), "preemptions"), query(total("tandem_worker_stale_attempt_messages_total"), "stale attempts"),
           query(total("tandem_worker_handovers_failed_total"), "hand-overs failed")]),
)

BOARD = board("worker", "one worker", "Everything about the worker chosen above.", [GLANCE, WORK, STAGES, KV, TROUBLE], (JOB, INSTANCE))
