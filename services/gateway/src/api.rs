//! The HTTP interface: routes, request parameters, responses.

pub(crate) mod app;
mod body;
mod choices;
mod generate;
mod params;
mod respond;
pub(crate) mod routes;
mod tokenize;

pub use app::{App, AppParts, Limits};
pub use routes::router;
