//! `loadgen calibrate`: measures the load that this machine can generate accurately.

use std::path::Path;

use anyhow::Result;

use super::exit::Ending;
use crate::calibrate::{self, CalibrateArgs};

/// Executes the command against a null server started from `program`, which is this program.
pub async fn execute(args: &CalibrateArgs, program: &Path) -> Result<(String, Ending)> {
    let calibrated = calibrate::run(args, program).await?;
    let ending = if calibrated.enough { Ending::Good } else { Ending::Invalid };
    Ok((calibrated.text, ending))
}
