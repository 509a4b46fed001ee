//! Names of spans and attributes, in one place.
//!
//! `gen_ai.*` follows the GenAI semantic conventions as of May 2026 (status: development, kept in
//! `open-telemetry/semantic-conventions-genai`), `messaging.*` and `http.*` version 1.44 of the
//! semantic conventions. They are written out here because those conventions still move.

/// The version of the semantic conventions that `http.*` and `messaging.*` are of.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Resource: which instance of the service.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// The class of a failure.
pub const ERROR_TYPE: &str = "error.type";

/// Request method.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// Matched route.
pub const HTTP_ROUTE: &str = "http.route";
/// Status code of the answer.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// Path of the URL.
pub const URL_PATH: &str = "url.path";

/// `chat` or `text_completion`.
pub const GEN_AI_OPERATION_NAME: &str = "gen_ai.operation.name";
/// The system that serves the model: [`PROVIDER`].
pub const GEN_AI_PROVIDER_NAME: &str = "gen_ai.provider.name";
/// The value of [`GEN_AI_PROVIDER_NAME`].
pub const PROVIDER: &str = "tandem";
/// The model that was asked for.
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
/// The largest number of tokens asked for.
pub const GEN_AI_REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
/// Sampling temperature.
pub const GEN_AI_REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
/// Nucleus sampling bound.
pub const GEN_AI_REQUEST_TOP_P: &str = "gen_ai.request.top_p";
/// Number of candidates sampled from.
pub const GEN_AI_REQUEST_TOP_K: &str = "gen_ai.request.top_k";
/// Sampling seed.
pub const GEN_AI_REQUEST_SEED: &str = "gen_ai.request.seed";
/// True if the answer is streamed.
pub const GEN_AI_REQUEST_STREAM: &str = "gen_ai.request.stream";
/// The answer's id.
pub const GEN_AI_RESPONSE_ID: &str = "gen_ai.response.id";
/// The model that answered.
pub const GEN_AI_RESPONSE_MODEL: &str = "gen_ai.response.model";
/// The reason for which each choice ended.
pub const GEN_AI_RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Seconds to the first chunk, as the client sees it.
pub const GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
/// Tokens of the prompt, cached ones included.
pub const GEN_AI_USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens generated.
pub const GEN_AI_USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Tokens of the prompt whose KV was reused.
pub const GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";

/// The input, as the model gets it: JSON, only with `telemetry.contents`.
pub const GEN_AI_INPUT_MESSAGES: &str = "gen_ai.input.messages";
/// The output: JSON, only with `telemetry.contents`.
pub const GEN_AI_OUTPUT_MESSAGES: &str = "gen_ai.output.messages";

/// The messaging system: [`NATS`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The value of [`MESSAGING_SYSTEM`].
pub const NATS: &str = "nats";
/// `publish` or `process`.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// `send`, `receive`, `process` or `settle`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// The subject's template; inbox subjects never appear in names.
pub const MESSAGING_DESTINATION_TEMPLATE: &str = "messaging.destination.template";

/// Our own attributes.
pub mod tandem {
    /// The request's id.
    pub const REQUEST_ID: &str = "tandem.request.id";
    /// The attempt, from 0.
    pub const ATTEMPT: &str = "tandem.attempt";
    /// The class of what ended an attempt.
    pub const LOST_CLASS: &str = "tandem.lost.class";
    /// The event that ended an attempt.
    pub const LOST_REASON: &str = "tandem.lost.reason";
    /// A worker's id.
    pub const WORKER: &str = "tandem.worker";
    /// Tokens that this stage handled.
    pub const TOKENS: &str = "tandem.tokens";
    /// Tokens whose KV was already there.
    pub const CACHED_TOKENS: &str = "tandem.cached_tokens";
    /// KV blocks that this stage moved.
    pub const BLOCKS: &str = "tandem.kv.blocks";
    /// KV bytes that this stage moved.
    pub const BYTES: &str = "tandem.kv.bytes";
    /// Sequences that shared the step.
    pub const BATCH: &str = "tandem.batch";
    /// Tokens whose KV came from the store.
    pub const STORED_TOKENS: &str = "tandem.stored_tokens";
    /// Tokens of the prompt and of earlier attempts.
    pub const PROMPT_TOKENS: &str = "tandem.prompt_tokens";
    /// Tokens computed in this stage.
    pub const COMPUTED_TOKENS: &str = "tandem.computed_tokens";
    /// Steps that a prompt took.
    pub const CHUNKS: &str = "tandem.chunks";
    /// Tokens of the answer when this stage ended.
    pub const OUTPUT_TOKENS: &str = "tandem.output_tokens";
    /// The reason for which a sequence ended: `stop` or `length`.
    pub const FINISH: &str = "tandem.finish";
    /// The reason for which a stage ended early.
    pub const ENDED: &str = "tandem.ended";
    /// KV blocks that could not be stored.
    pub const UNSTORED_BLOCKS: &str = "tandem.unstored_blocks";
    /// A model's namespace in the store.
    pub const NAMESPACE: &str = "tandem.kv.namespace";
    /// The part of a request: `prefill`, `decode` or `whole`.
    pub const LEG: &str = "tandem.leg";
    /// Milliseconds between the sending of a message and its receipt.
    pub const BROKER_WAIT_MS: &str = "tandem.broker_wait_ms";
    /// The answer of a worker to a job: `accepted`, or the class of its refusal.
    pub const ANSWER: &str = "tandem.answer";
    /// The load run that a request belongs to, from its baggage.
    pub const RUN_ID: &str = "loadgen.run_id";
    /// True if the store had any of the blocks that were asked for.
    pub const HIT: &str = "tandem.kv.hit";
    /// Blocks that the store had.
    pub const STORED_BLOCKS: &str = "tandem.kv.stored_blocks";
    /// The source of reused KV: `pool`, `store`, `both` or `none`.
    pub const TIER: &str = "tandem.kv.tier";
    /// The way in which blocks came: `listen`, `fetch` or `pull`.
    pub const PATH: &str = "tandem.kv.path";
    /// Megabytes of KV per second.
    pub const MB_PER_S: &str = "tandem.kv.mb_per_s";
    /// Prompt tokens of a step.
    pub const PREFILL_TOKENS: &str = "tandem.step.prefill_tokens";
    /// Generating sequences of a step.
    pub const DECODE_SEQUENCES: &str = "tandem.step.decode_sequences";
    /// Milliseconds of a step inside the model.
    pub const FORWARD_MS: &str = "tandem.step.forward_ms";
    /// Steps since the last one that was recorded.
    pub const STEPS_UNRECORDED: &str = "tandem.step.unrecorded";
    /// Pages taken from a sequence so far.
    pub const PREEMPTIONS: &str = "tandem.preemptions";
    /// Predicted milliseconds to the first token.
    pub const PREDICTED_TTFT_MS: &str = "tandem.route.predicted_ttft_ms";
    /// Milliseconds from the sending of the jobs until the first token was here.
    pub const ACTUAL_TTFT_MS: &str = "tandem.route.actual_ttft_ms";
    /// Where a request runs.
    pub const ROUTE_CHOSEN: &str = "tandem.route.chosen";
    /// The price of that, in milliseconds.
    pub const ROUTE_PRICE_MS: &str = "tandem.route.price_ms";
    /// The parts of the price.
    pub const ROUTE_PARTS: &str = "tandem.route.parts";
    /// The best alternatives, with their prices.
    pub const ROUTE_CANDIDATES: &str = "tandem.route.candidates";
    /// The number of alternatives that were priced.
    pub const ROUTE_CONSIDERED: &str = "tandem.route.considered";
    /// Prompt tokens that the price takes for reused.
    pub const ROUTE_EXPECTED_CACHED_TOKENS: &str = "tandem.route.expected_cached_tokens";
    /// Time to first token that the parts of the trace add up to, in milliseconds.
    pub const TTFT_MS: &str = "tandem.ttft_ms";
}

/// The stages of a request, siblings under the gateway's span.
pub mod stage {
    /// gateway: template and tokenizer.
    pub const TOKENIZE: &str = "tokenize";
    /// gateway: admission.
    pub const ADMIT: &str = "admit";
    /// gateway: choice of workers and sending of both legs.
    pub const ROUTE: &str = "route";
    /// prefill: from the gateway's sending to the first step that works on it.
    pub const PREFILL_QUEUE: &str = "prefill.queue";
    /// prefill: taking the stored prefix.
    pub const PREFILL_KV_FETCH: &str = "prefill.kv_fetch";
    /// prefill: computing the rest, one span per chunk.
    pub const PREFILL_COMPUTE: &str = "prefill.compute";
    /// From the end of prefill's compute until the gateway has the token.
    pub const FIRST_TOKEN: &str = "first_token";
    /// prefill or decode: storing sealed blocks.
    pub const KV_PUT: &str = "kv.put";
    /// decode: from the gateway's sending to acceptance.
    pub const DECODE_QUEUE: &str = "decode.queue";
    /// decode: taking the prompt's blocks.
    pub const DECODE_KV_PULL: &str = "decode.kv_pull";
    /// decode: the first step of the sequence.
    pub const DECODE_FIRST_STEP: &str = "decode.first_step";
    /// decode: the following steps.
    pub const DECODE_GENERATE: &str = "decode.generate";
    /// gateway: what an attempt that came to nothing cost, from the last that was heard of it until
    /// the next attempt is routed.
    pub const LOST_ATTEMPT: &str = "lost_attempt";
    /// gateway: sending tokens to the client.
    pub const STREAM: &str = "stream";

    /// The stages that a client waits for, one after the other; others run beside them or come
    /// after.
    pub const TO_FIRST_TOKEN: [&str; 8] = [
        TOKENIZE,
        ADMIT,
        ROUTE,
        LOST_ATTEMPT,
        PREFILL_QUEUE,
        PREFILL_KV_FETCH,
        PREFILL_COMPUTE,
        FIRST_TOKEN,
    ];
}

/// Events inside spans.
pub mod event {
    /// The first token is known.
    pub const FIRST_TOKEN: &str = "first_token";
    /// A number of further tokens is known.
    pub const TOKENS: &str = "tokens";
    /// The sequence lost its pages and waits again.
    pub const PREEMPTED: &str = "preempted";
    /// The request went on elsewhere, with the tokens so far.
    pub const MIGRATED: &str = "migrated";
    /// The request began again elsewhere.
    pub const RETRIED: &str = "retried";
    /// The request missed its SLO.
    pub const SLO_MISSED: &str = "slo_missed";
    /// The client went away.
    pub const CLIENT_GONE: &str = "client_gone";
    /// The request was cancelled.
    pub const CANCELLED: &str = "cancelled";
}
