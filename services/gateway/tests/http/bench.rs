//! A gateway whose vocabulary is bytes and whose generations follow a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use chassis::StopToken;
use chassis::settings::LinksSettings;
use chassis::telemetry::Tracer;
use futures::future::BoxFuture;
use gateway::dispatch::fleet::FleetView;
use gateway::dispatch::{Generation, GenerationEvent};
use gateway::{
    App, AppParts, Backend, Exposition, FleetStatus, GenerationStream, HttpMetrics, Limits,
    SloPolicy, TextModel, TextModelParts, Vocabulary,
};
use protocol::*;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) const CONTEXT_TOKENS: u32 = 256;
pub(crate) const IM_START: TokenId = 256;
pub(crate) const IM_END: TokenId = 257;
const SPECIALS: [(&str, TokenId); 2] = [("<|im_start|>", IM_START), ("<|im_end|>", IM_END)];
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
    <|im_end|>\n{% if m.content == 'refuse me' %}{{ raise_exception('no') }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Every byte is a token, and two texts are special ones.
pub(crate) struct Bytes;

impl Vocabulary for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, String> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(byte) = rest.bytes().next() {
            match SPECIALS.iter().find(|(special, _)| rest.starts_with(special)) {
                Some((special, token)) => {
                    tokens.push(*token);
                    rest = &rest[special.len()..];
                }
                None => {
                    tokens.push(TokenId::from(byte));
                    let bytes = rest.chars().next().unwrap().len_utf8();
                    tokens.extend(rest[..bytes].bytes().skip(1).map(TokenId::from));
                    rest = &rest[bytes..];
                }
            }
        }
        Ok(tokens)
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        match SPECIALS.iter().find(|(_, special)| *special == token) {
            Some((text, _)) => text.as_bytes().to_vec(),
            None => vec![u8::try_from(token).unwrap()],
        }
    }

    fn is_special(&self, token: TokenId) -> bool {
        token >= 256
    }

    fn size(&self) -> usize {
        258
    }
}

/// The script of one generation.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) refused: Option<Refusal>,
    pub(crate) tokens: Vec<TokenId>,
    /// `None` never ends.
    pub(crate) finish: Option<Finish>,
    pub(crate) fails: Option<Refusal>,
    pub(crate) cached_tokens: u32,
}

impl Plan {
    /// Returns a script of these bytes and a stop.
    pub(crate) fn says(text: &str) -> Self {
        let mut tokens: Vec<TokenId> = text.bytes().map(TokenId::from).collect();
        tokens.push(IM_END);
        Self { refused: None, tokens, finish: Some(Finish::Stop), fails: None, cached_tokens: 0 }
    }

    /// Returns a script of these bytes that ends at the length limit.
    pub(crate) fn cut(text: &str) -> Self {
        let tokens = text.bytes().map(TokenId::from).collect();
        Self { tokens, finish: Some(Finish::Length), ..Self::says("") }
    }

    /// Returns a script of these bytes that never ends.
    pub(crate) fn hangs_after(text: &str) -> Self {
        Self { finish: None, ..Self::cut(text) }
    }

    pub(crate) fn fails_after(text: &str, class: ErrorClass) -> Self {
        let refusal = Refusal::new(class, "worker d1 is gone");
        Self { finish: None, fails: Some(refusal), ..Self::cut(text) }
    }

    pub(crate) fn refused(class: ErrorClass) -> Self {
        Self { refused: Some(Refusal::new(class, "no room")), ..Self::says("") }
    }
}

/// The way in which a generation was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    Stopped(CancelReason),
    Dropped,
}

#[derive(Default)]
struct Record {
    plans: VecDeque<Plan>,
    generations: Vec<Generation>,
    given_up: Vec<GivenUp>,
    unready: Option<String>,
    fleet: FleetView,
    looks: usize,
}

/// A backend that follows its plans in order, and one that says "ok" when none is left.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    record: Arc<Mutex<Record>>,
}

struct ScriptedStream {
    events: VecDeque<GenerationEvent>,
    ends: bool,
    record: Arc<Mutex<Record>>,
}

impl Scripted {
    pub(crate) fn then(&self, plan: Plan) -> &Self {
        self.record.lock().unwrap().plans.push_back(plan);
        self
    }

    pub(crate) fn generations(&self) -> Vec<Generation> {
        self.record.lock().unwrap().generations.clone()
    }

    pub(crate) fn given_up(&self) -> Vec<GivenUp> {
        self.record.lock().unwrap().given_up.clone()
    }

    pub(crate) fn unready(&self, reason: &str) {
        self.record.lock().unwrap().unready = Some(reason.to_owned());
    }

    pub(crate) fn has(&self, fleet: FleetView) {
        self.record.lock().unwrap().fleet = fleet;
    }

    /// Returns the number of requests for the fleet's status.
    pub(crate) fn looks(&self) -> usize {
        self.record.lock().unwrap().looks
    }
}

fn scored(token: TokenId, top: Option<u8>) -> Option<TokenLogprob> {
    let alternatives =
        (0..u32::from(top?)).map(|rank| (u32::from(b'A') + rank, -1.0 - rank as f32));
    Some(TokenLogprob { logprob: -(token as f32) / 8.0, top: alternatives.collect() })
}

fn events(generation: &Generation, plan: &Plan) -> VecDeque<GenerationEvent> {
    let key = RequestKey { request: generation.request, attempt: Attempt(0) };
    let sent_us = || std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let prompt_logprobs = generation.prompt_logprobs.map(|top| {
        let rest = generation.prompt.iter().skip(1).map(|&token| scored(token, Some(top)));
        std::iter::once(None).chain(rest).collect()
    });
    let opening = Opening {
        cached_tokens: plan.cached_tokens,
        stored_tokens: 0,
        prompt_logprobs: prompt_logprobs.unwrap_or_default(),
    };
    let mut opening = Some(Box::new(opening));
    let mut event = |index: usize, token, finish| {
        GenerationEvent::Token(TokenEvent {
            key,
            index: index as u32,
            token,
            logprob: token.and_then(|token| scored(token, generation.top_logprobs)),
            finish,
            opening: opening.take(),
            sent_us: sent_us() as u64,
            stages: None,
        })
    };
    if generation.stopping.max_tokens == 0 {
        return VecDeque::from([event(0, None, Some(Finish::Length))]);
    }
    let last = plan.tokens.len().wrapping_sub(1);
    let finish = |index| plan.finish.filter(|_| index == last);
    let tokens = plan.tokens.iter().enumerate();
    let mut events: VecDeque<GenerationEvent> =
        tokens.map(|(index, &token)| event(index, Some(token), finish(index))).collect();
    events.extend(plan.fails.clone().map(GenerationEvent::Failed));
    events
}

impl Backend for Scripted {
    fn start(
        &self,
        generation: Generation,
    ) -> BoxFuture<'_, Result<Box<dyn GenerationStream>, Refusal>> {
        let mut record = self.record.lock().unwrap();
        let plan = record.plans.pop_front().unwrap_or_else(|| Plan::says("ok"));
        let events = events(&generation, &plan);
        record.generations.push(generation);
        let record = Arc::clone(&self.record);
        let ends = plan.finish.is_some() || plan.fails.is_some();
        let started: Result<Box<dyn GenerationStream>, Refusal> = match plan.refused {
            Some(refusal) => Err(refusal),
            None => Ok(Box::new(ScriptedStream { events, ends, record })),
        };
        Box::pin(async { started })
    }

    fn readiness(&self) -> Result<(), String> {
        self.record.lock().unwrap().unready.clone().map_or(Ok(()), Err)
    }

    fn max_model_len(&self) -> Option<u32> {
        Some(CONTEXT_TOKENS)
    }

    fn retry_after(&self) -> Duration {
        Duration::from_millis(2500)
    }

    fn status(&self) -> BoxFuture<'_, FleetStatus> {
        let mut record = self.record.lock().unwrap();
        record.looks += 1;
        let fleet = record.fleet.clone();
        Box::pin(async {
            FleetStatus { fleet, store: Err("there is none".to_owned()), retries: 0 }
        })
    }
}

impl GenerationStream for ScriptedStream {
    fn next(&mut self) -> BoxFuture<'_, Option<GenerationEvent>> {
        Box::pin(async {
            match self.events.pop_front() {
                None if !self.ends => std::future::pending().await,
                piece => piece,
            }
        })
    }

    fn stop(mut self: Box<Self>, reason: CancelReason) {
        self.record.lock().unwrap().given_up.push(GivenUp::Stopped(reason));
        self.ends = true;
        self.events.clear();
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        if !self.events.is_empty() || !self.ends {
            self.record.lock().unwrap().given_up.push(GivenUp::Dropped);
        }
    }
}

/// A served gateway.
pub(crate) struct Bench {
    pub(crate) backend: Scripted,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// Stops the server.
    pub(crate) stop: StopToken,
    server: JoinSet<()>,
}

struct Observing {
    tracer: Tracer,
    slo: SloPolicy,
    record_contents: bool,
}

pub(crate) fn limits() -> Limits {
    Limits {
        request_timeout: Duration::from_secs(20),
        body_timeout: Duration::from_secs(5),
        max_inflight: 8,
        max_body_bytes: 64 << 10,
        max_choices: 8,
    }
}

/// Returns a model whose requests sample by `sampling` unless they say otherwise.
pub(crate) fn bytes_model(sampling: Sampling) -> TextModel {
    TextModel::new(TextModelParts {
        vocabulary: Arc::new(Bytes),
        model: "bytes".to_owned(),
        aliases: vec!["bytes-alias".to_owned()],
        files: FileDigest([7; 32]),
        context_tokens: 4096,
        chat_template: Some(TEMPLATE.to_owned()),
        bos: Some(IM_START),
        eos: Some(IM_END),
        add_bos: false,
        stop_tokens: vec![IM_END],
        sampling,
    })
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(limits(), Tracer::off()).await
    }

    pub(crate) async fn with(limits: Limits, tracer: Tracer) -> Self {
        Self::serving(bytes_model(Sampling::default()), limits, tracer).await
    }

    /// Starts a gateway with this policy, whose spans carry contents if `record_contents`.
    pub(crate) async fn observing(slo: SloPolicy, record_contents: bool, tracer: Tracer) -> Self {
        Self::all(
            bytes_model(Sampling::default()),
            limits(),
            Observing { tracer, slo, record_contents },
        )
        .await
    }

    /// Starts a gateway with the text side of another model.
    pub(crate) async fn serving(text: TextModel, limits: Limits, tracer: Tracer) -> Self {
        let slo = SloPolicy::default();
        Self::all(text, limits, Observing { tracer, slo, record_contents: false }).await
    }

    async fn all(text: TextModel, limits: Limits, observing: Observing) -> Self {
        let Observing { tracer, slo, record_contents } = observing;
        let mut registry = chassis::metrics::registry("gateway");
        let backend = Scripted::default();
        let stop = StopToken::new();
        let app = App::new(AppParts {
            text: Arc::new(text),
            backend: Arc::new(backend.clone()),
            http_metrics: Arc::new(HttpMetrics::new(&mut registry, "bytes")),
            metrics: Exposition::new(registry),
            tracer,
            slo,
            record_contents,
            limits,
            links: LinksSettings::default(),
            stop: stop.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = gateway::router(Arc::new(app));
        let mut server = JoinSet::new();
        let stopped = stop.clone();
        server.spawn(async {
            chassis::http::serve(listener, router, stopped).await.unwrap();
        });
        Self { backend, url, http: testbed::http().build().unwrap(), stop, server }
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(&mut self) {
        while let Some(ended) = self.server.join_next().await {
            ended.unwrap();
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).json(body)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Returns status and JSON of a response.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    pub(crate) async fn chat(&self, body: Value) -> (u16, Value) {
        self.ask("/v1/chat/completions", &merged(chat_body(), body)).await
    }

    pub(crate) async fn complete(&self, body: Value) -> (u16, Value) {
        self.ask("/v1/completions", &merged(completion_body(), body)).await
    }

    /// Returns the data of all events of a stream; the last must be `[DONE]`.
    pub(crate) async fn stream(&self, path: &str, body: Value) -> Vec<Value> {
        let base = if path.contains("chat") { chat_body() } else { completion_body() };
        let stream = serde_json::json!({ "stream": true });
        let response = self.post(path, &merged(merged(base, stream), body)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let text = response.text().await.unwrap();
        let mut data: Vec<&str> = text
            .split("\n\n")
            .filter(|event| !event.is_empty())
            .map(|event| event.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

pub(crate) fn chat_body() -> Value {
    serde_json::json!({ "model": "bytes", "messages": [{ "role": "user", "content": "Hi" }] })
}

pub(crate) fn completion_body() -> Value {
    serde_json::json!({ "model": "bytes", "prompt": "Hi" })
}

pub(crate) fn merged(mut base: Value, over: Value) -> Value {
    for (key, value) in over.as_object().unwrap() {
        base[key.as_str()] = value.clone();
    }
    base
}
