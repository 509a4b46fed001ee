//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use protocol::TokenId;
use protocol::job::SEQUENCE_TOKENS_MAX;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::body;
use crate::api::params::{ChatRequest, Fields, integer, wrong};
use crate::error::{ApiError, json_response};
use crate::text::model::Prompt;

/// Converts text or messages to tokens.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(app, request, |app, body| {
        let mut fields = Fields::parse(body)?;
        let prepared = if fields.peek("messages").is_some() {
            let request = ChatRequest::parse(body, app.parse_context())?;
            app.text.chat_prompt(&request.conversation, request.common.add_special_tokens)?
        } else {
            let prompt = fields.text("prompt", app.limits.max_body_bytes)?;
            let prompt = prompt.ok_or_else(|| ApiError::invalid("prompt", "prompt is missing"))?;
            let add_special_tokens = fields.boolean("add_special_tokens")?;
            app.text.completion_prompt(Prompt::Text(prompt), add_special_tokens)?
        };
        Ok(json!({
            "count": prepared.tokens.len(),
            "max_model_len": app.max_model_len(),
            "tokens": prepared.tokens[..],
        }))
    })
    .await
}

/// Converts tokens to text.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(app, request, |app, body| {
        const NAME: &str = "tokens";
        let values = match Fields::parse(body)?.take(NAME) {
            Some(Value::Array(values)) if values.len() <= SEQUENCE_TOKENS_MAX => values,
            other => {
                let other = other.unwrap_or(Value::Null);
                return Err(wrong(NAME, &other, "an array of token ids"));
            }
        };
        let last = i64::from(app.parse_context().vocabulary) - 1;
        let tokens: Result<Vec<TokenId>, ApiError> = values
            .iter()
            .map(|value| integer(NAME, value, 0..=last).map(|token| token as TokenId))
            .collect();
        Ok(json!({ "prompt": app.text.vocabulary.decode(&tokens?) }))
    })
    .await
}

async fn respond(
    app: Arc<App>,
    request: Request,
    compute: fn(&App, &[u8]) -> Result<Value, ApiError>,
) -> Response {
    let result = async {
        let body = body::read(request.into_body(), &app.limits).await?;
        app.run_blocking(move |app| compute(app, &body)).await
    };
    match result.await {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(error) => error.into_response(),
    }
}
