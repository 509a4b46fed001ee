//! The bus against a real nats-server.

mod blocks;
mod hostile;
mod outage;
mod presence;
mod requests;
mod site;
mod tokens;
