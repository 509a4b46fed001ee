//! The command line.

use std::process::ExitCode;

use chassis::SettingsArgs;
use chassis::service::ServiceArgs;
use clap::{Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::chat::ChatArgs;
use crate::config::ConfigArgs;
use crate::doctor::DoctorArgs;
use crate::fetch_model::FetchModelArgs;
use crate::healthcheck::HealthcheckArgs;
use crate::service::ServiceKind;
use crate::status::StatusArgs;
use crate::trace::TraceArgs;
use crate::up::UpArgs;
use crate::{
    bench, chat, config, doctor, fetch_model, healthcheck, http, metrics, service, status, trace,
    up,
};

/// Serves a language model with prefill and decode on different workers.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything on this machine: a private nats-server, gateway, prefill, decode, kvstore
    Up(UpArgs),
    /// Talk to a running system in the terminal
    Chat {
        #[command(flatten)]
        settings: SettingsArgs,
        #[command(flatten)]
        chat: ChatArgs,
    },
    /// Show the workers and the store of a running system
    Status(StatusArgs),
    /// Show one request as a waterfall, or the slowest ones, from Jaeger
    Trace(TraceArgs),
    /// Describe every metric of every service, as Markdown
    Metrics,
    /// Show every setting, its value and where it came from
    Config(ConfigArgs),
    /// Look whether this machine has what `tandem up` needs
    Doctor(DoctorArgs),
    /// Measure the engine, or the path around it, on this machine (needs tandem-bench)
    Bench(BenchArgs),
    /// Run the gateway alone
    Gateway(ServiceArgs),
    /// Run one prefill worker alone
    Prefill(ServiceArgs),
    /// Run one decode worker alone
    Decode(ServiceArgs),
    /// Run the kvstore alone
    Kvstore(ServiceArgs),
    /// Exit with success if a health endpoint answers 200
    Healthcheck(HealthcheckArgs),
    /// Fetch the default model into a directory
    FetchModel(FetchModelArgs),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Up(args) => up::run(args).await.map(done),
            Command::Chat { settings, chat } => {
                let base = match &chat.url {
                    Some(url) => http::base_url(url),
                    None => up::addresses(&settings.load()?).base_url,
                };
                chat::run(chat, &base).await.map(done)
            }
            Command::Status(args) => status::run(args).await.map(done),
            Command::Trace(args) => trace::run(args).await.map(done),
            Command::Metrics => metrics::run().map(done),
            Command::Config(args) => config::run(&args).map(done),
            Command::Doctor(args) => doctor::run(args).await,
            Command::Bench(args) => bench::run(&args).map(|never| match never {}),
            Command::Gateway(args) => service::run(ServiceKind::Gateway, args).await.map(done),
            Command::Prefill(args) => service::run(ServiceKind::Prefill, args).await.map(done),
            Command::Decode(args) => service::run(ServiceKind::Decode, args).await.map(done),
            Command::Kvstore(args) => service::run(ServiceKind::Kvstore, args).await.map(done),
            Command::Healthcheck(args) => healthcheck::run(args).await.map(done),
            Command::FetchModel(args) => fetch_model::run(args).await.map(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
