//! The command-line flags that every service shares.

use std::path::PathBuf;

use super::error::SettingsError;
use super::sources::{Flag, Sources};
use super::{Effective, load};

/// Flags of every service; flatten them into a service's own arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SettingsArgs {
    /// Configuration file (TOML); default: $TANDEM_CONFIG, else tandem.toml if there is one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any configuration key, such as --set worker.kv_pages=2048
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<String>,
    /// NATS server to connect to [default: a private one for `up`, else nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Model file (GGUF), directory (safetensors), or `hf:owner/repo[:file]` from a Hugging Face hub
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Computation of the workers: model, or simulated, which needs no model
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// Device of the workers: auto, cpu, wgpu, wgpu:N, reference or reference:wgpu
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Compute threads per worker, 0 for all cores
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Address of the gateway [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
}

impl SettingsArgs {
    /// Returns the flags as settings; `--set` comes first, so that a named flag wins over it.
    pub fn flags(&self) -> Result<Vec<Flag>, SettingsError> {
        let mut flags = Vec::new();
        for text in &self.assignments {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| SettingsError::NotAnAssignment { text: text.clone() })?;
            flags.push(Flag {
                key: key.trim().to_owned(),
                value: value.to_owned(),
                flag: "--set".to_owned(),
            });
        }
        let path = self.model.as_ref().map(|path| path.display().to_string());
        let named = [
            ("nats.url", "--nats", self.nats.clone()),
            ("model.path", "--model", path),
            ("engine", "--engine", self.engine.clone()),
            ("device", "--device", self.device.clone()),
            ("threads", "--threads", self.threads.map(|count| count.to_string())),
            ("gateway.listen", "--listen", self.listen.clone()),
        ];
        for (key, flag, value) in named {
            if let Some(value) = value {
                flags.push(Flag { key: key.to_owned(), value, flag: flag.to_owned() });
            }
        }
        Ok(flags)
    }

    /// Loads the settings of this process: file, environment and these flags.
    pub fn load(&self) -> Result<Effective, SettingsError> {
        load(&Sources::of_process(self.config.clone(), self.flags()?))
    }
}
