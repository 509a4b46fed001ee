//! `tandem config`: the settings in force and the origin of each, or what each of them means.

use chassis::{SettingsArgs, settings};

use crate::console;

/// The form in which settings are shown.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Describe every setting, with its unit, range and default, as Markdown
    #[arg(long)]
    describe: bool,
}

/// Prints one line per setting: key, value, origin.
pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    if args.describe {
        console::piece(&settings::describe()?);
        return Ok(());
    }
    let effective = args.settings.load()?;
    console::line(effective.to_string().trim_end());
    for warning in &effective.notices.warnings {
        console::note(&format!("tandem: {warning}"));
    }
    Ok(())
}
