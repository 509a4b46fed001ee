"""Where does the time to first token go?"""

from panels import MODEL, board, heat, latency, lines, quantile, query, row, stat, total

TTFT = "vllm:time_to_first_token_seconds"
PROMPT = "vllm:request_prompt_tokens"


def cached_share():
    cached, prompt = total("tandem_gateway_cached_prompt_tokens_total", MODEL), total("vllm:prompt_tokens_total", MODEL)
    return f"{cached} / ({prompt} > 0) or on() vector(0)"


FELT = row(
    "What clients wait for",
    latency("Time to first token", "From a request's arrival at the gateway to its first token.", TTFT, MODEL, width=12),
    heat("Time to first token, spread", "Requests per second in each bucket: two bands are two kinds of request, which no quantile shows.",
         TTFT, MODEL, width=12),
)

CAUSES = row(
    "What it depends on",
    lines("Prompt length", "Prompt tokens of a request.", "short",
          [query(quantile(PROMPT, q, MODEL), name, exemplar=True) for name, q in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"))]),
    stat("Cached share of prompts", "Share of prompt tokens that were not computed because their KV was there.", "percentunit", cached_share(), width=4),
    lines("Prompt tokens by source", "Prompt tokens per second: computed, found in the worker's own pages, or fetched from the store.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", by="source", rare=True), "{{source}}")], width=12, stacked=True),
)

BOARD = board("ttft", "where does TTFT go?", "Which stage of a request's way takes the time until its first token.", [FELT, CAUSES])
