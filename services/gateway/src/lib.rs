//! The gateway service: HTTP, text, and the journeys of requests.
//!
//! It is the only place that knows text: it renders chat templates, tokenizes, and turns tokens back
//! into characters. What runs where is decided by `scheduling` and carried out by [`dispatch`].

mod service;

mod routes;

mod app;
mod body;
mod generations;
mod tokens;

mod params;

mod calendar;
mod chat_template;
mod text;
mod vocabulary;

mod backend;
mod choice;
mod detokenize;
mod generate;
mod stop;

mod account;
mod judge;
mod metrics;
mod respond;
mod stages;

pub mod dispatch;
pub mod fleet;
pub mod history;
pub mod page;

pub use app::{App, AppParts, Limits};
pub use backend::{Backend, Pieces, Sight};
pub use judge::Judge;
pub use metrics::{Exposition, HttpMetrics};
pub use routes::router;
pub use service::{instruments, run};
pub use stages::StageNotes;
pub use text::{Text, TextParts};
pub use vocabulary::Vocabulary;
