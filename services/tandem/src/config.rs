//! `tandem config`: the settings in force and where each came from.

use chassis::SettingsArgs;

use crate::console;

/// Prints one line per setting: key, value, origin.
pub(crate) fn run(args: &SettingsArgs) -> anyhow::Result<()> {
    console::line(args.load()?.to_string().trim_end());
    Ok(())
}
