//! `loadgen calibrate`: finds out which load this machine's generator can be trusted with.

use std::path::Path;

use anyhow::Result;

use super::exit::Ending;
use crate::calibrate::{self, CalibrateArgs};

/// Drives the ramp against a server started from `program`, which is this program.
pub async fn execute(args: &CalibrateArgs, program: &Path) -> Result<(String, Ending)> {
    let calibrated = calibrate::run(args, program).await?;
    let ending = if calibrated.enough { Ending::Good } else { Ending::Invalid };
    Ok((calibrated.text, ending))
}
