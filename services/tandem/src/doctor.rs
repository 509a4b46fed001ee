//! `tandem doctor`: what this machine has of what `tandem up` needs.

mod checks;

use std::process::ExitCode;

use chassis::SettingsArgs;

use crate::console;

/// The settings to check.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Prints one line for each check. Fails when something that is needed is missing.
pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let effective = args.settings.load()?;
    let mut worst = Verdict::Ok;
    for check in checks::all(&effective).await {
        worst = worst.max(check.verdict);
        let Check { name, verdict, found, advice } = check;
        console::line(&format!("{name:<8}  {:<4}  {found}", verdict.as_str()));
        if let Some(advice) = advice {
            console::line(&format!("{:16}{advice}", ""));
        }
    }
    Ok(if worst == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
