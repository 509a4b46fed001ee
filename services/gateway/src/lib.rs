//! The gateway service: HTTP, text, and the dispatch of requests to workers.
//!
//! It is the only service that handles text: it renders chat templates, tokenizes, and turns tokens
//! back into characters. `scheduling` decides where a request runs; [`dispatch`] carries that out.
//!
//! The modules build on each other in one direction:
//! `service` → `api` → [`page`] → [`dispatch`] → `observe` → `text` → `error`, `endpoint`.

mod service;

mod api;
pub mod page;

pub mod dispatch;

mod observe;
mod text;

mod endpoint;
mod error;

pub use api::{App, AppParts, Limits, router};
pub use dispatch::backend::{Backend, FleetStatus, GenerationStream};
pub use observe::{Exposition, HttpMetrics, SloPolicy, StageNotes};
pub use service::{instruments, run};
pub use text::{TextModel, TextModelParts, Vocabulary};
