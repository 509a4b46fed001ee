"""Where does the time to first token go?"""

from panels import CHOSEN, INSTANCE, JOB, MODEL, MODELS, board, choice, heat, latency, lines, quantile, quantiles, query, row, stat, total

TTFT = "vllm:time_to_first_token_seconds"
PROMPT = "vllm:request_prompt_tokens"
STAGE = "tandem_stage_seconds"
# The stages up to the first token, in order; the names are those of the spans.
TO_FIRST_TOKEN = ("tokenize", "admit", "route", "prefill.queue", "prefill.kv_fetch", "prefill.compute", "first_token")
DECODE = ("decode.queue", "decode.kv_pull", "decode.first_step")

STAGES = choice("stage", "Stage", f'label_values({STAGE}_count{{job=~"$job"}}, stage)', every=False,
                current={"text": "prefill.queue", "value": "prefill.queue"})


def of(stage):
    return f'{CHOSEN},stage="{stage}"'


def cached_share():
    cached, prompt = total("tandem_gateway_cached_prompt_tokens_total", MODEL), total("vllm:prompt_tokens_total", MODEL)
    return f"{cached} / ({prompt} > 0) or on() vector(0)"


def mean_per_request(stage):
    """A stage's part of the mean TTFT: means add up, quantiles do not."""
    return f"{total(STAGE + '_sum', of(stage))} / on() ({total(TTFT + '_count', MODEL)} > 0) or on() vector(0)"


def each_stage(q, stages):
    pattern = "|".join(name.replace(".", "\\\\.") for name in stages)
    return query(quantile(STAGE, q, f'{CHOSEN},stage=~"{pattern}"', "stage"), "{{stage}}", exemplar=True)


OVERALL = row(
    "Overall",
    latency("Time to first token", "Time from a request's arrival at the gateway to its first token.", TTFT, MODEL),
    heat("Time to first token, distribution", "Requests per second in each bucket. Two bands are two kinds of request, which no quantile shows.",
         TTFT, MODEL),
    lines("Stages stacked", "Each stage's part of the mean time to first token; the stack is that mean. Only means add up: the quantiles "
          "of each stage are below.", "s", [query(mean_per_request(stage), stage) for stage in TO_FIRST_TOKEN], stacked=True),
)

EACH = row(
    "Stage by stage",
    lines("Stages to the first token, p50", "Half of the requests spend less than this in each stage. A dot is one request and opens its trace.",
          "s", [each_stage("0.5", TO_FIRST_TOKEN)]),
    lines("Stages to the first token, p90", "One request in ten spends more than this in each stage.", "s", [each_stage("0.9", TO_FIRST_TOKEN)]),
    lines("Stages to the first token, p99", "One request in a hundred spends more than this in each stage. The highest stage causes the tail.",
          "s", [each_stage("0.99", TO_FIRST_TOKEN)]),
    lines("Hand-over to decode's first token, p99", "Time from the hand-over to decode's first token. It delays the second token, not the first.",
          "s",
          [each_stage("0.99", DECODE)]),
    lines("The chosen stage", "Quantiles of the stage chosen at the top of the page. A dot is one request and opens its trace.", "s",
          quantiles(STAGE, CHOSEN + ',stage="$stage"')),
    heat("The chosen stage, distribution", "Requests per second in each bucket of the stage chosen at the top of the page.",
         STAGE, CHOSEN + ',stage="$stage"'),
)

CAUSES = row(
    "Causes",
    lines("Prompt length", "Prompt tokens per request. prefill.compute grows with the part that is not cached.", "short",
          quantiles(PROMPT, MODEL)),
    stat("Cached share of prompts", "Share of prompt tokens that were not computed because their KV was cached or stored.",
         "percentunit", cached_share()),
    stat("Waiting for prefill", "Prompt tokens accepted by workers and not computed yet. prefill.queue grows with them.", "short",
         "sum(tandem_worker_waiting_tokens{" + CHOSEN + "})"),
    lines("Prompt tokens by source", "Prompt tokens per second: computed, found in the worker's own pages, or read from the store.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", by="source", rare=True), "{{source}}")], stacked=True),
)

BOARD = board(
    "ttft", "where does TTFT go?", "Which stage of a request takes the time until its first token.", [OVERALL, EACH, CAUSES],
    (JOB, INSTANCE, MODELS, STAGES),
)
