//! The services of one machine, and their command lines.

use protocol::NatsUrl;

/// The options that all services of one `tandem up` have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Common {
    /// The URL of NATS.
    pub(crate) nats_url: NatsUrl,
    /// The model file, where the engine needs one.
    pub(crate) model: Option<String>,
    /// The name under which it is served, where its own does not serve.
    pub(crate) model_name: Option<String>,
    /// Threads of each worker.
    pub(crate) threads: usize,
    /// A suffix of the workers' names, for a bus that others may use.
    pub(crate) suffix: String,
    /// The log filter of the services, where the user did not give one.
    pub(crate) log: Option<String>,
    /// Configuration flags that the user gave, passed on as they are.
    pub(crate) flags: Vec<String>,
}

/// The number of workers of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerCounts {
    /// Workers that compute prompts.
    pub(crate) prefill: usize,
    /// Workers that generate.
    pub(crate) decode: usize,
}

/// One service process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its command line, after the program. Every user of the machine can read it.
    pub(crate) arguments: Vec<String>,
    /// The URL of NATS, for its environment: it may hold a password.
    pub(crate) nats_url: NatsUrl,
}

/// The four kinds of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// HTTP.
    Gateway,
    /// Computes prompts.
    Prefill,
    /// Generates.
    Decode,
    /// Keeps computed prefixes.
    Kvstore,
}

impl Kind {
    /// Returns the subcommand that runs it.
    pub(crate) fn subcommand(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Kvstore => "kvstore",
        }
    }

    /// Returns the rank in which it is stopped, lower first: senders of work before those that do it.
    pub(crate) fn stop_order(self) -> u8 {
        match self {
            Self::Gateway => 0,
            Self::Prefill | Self::Decode => 1,
            Self::Kvstore => 2,
        }
    }
}

/// Returns the services of one machine, in the order in which they are started.
pub(crate) fn services(common: &Common, workers: WorkerCounts) -> Vec<Service> {
    let mut services = vec![service(common, "kvstore".to_owned(), Kind::Kvstore)];
    for (kind, count) in [(Kind::Prefill, workers.prefill), (Kind::Decode, workers.decode)] {
        for number in 1..=count {
            let name = format!("{}-{number}{}", kind.subcommand(), common.suffix);
            services.push(service(common, name, kind));
        }
    }
    services.push(service(common, "gateway".to_owned(), Kind::Gateway));
    services
}

fn service(common: &Common, name: String, kind: Kind) -> Service {
    let mut arguments = vec![kind.subcommand().to_owned(), "--tethered".to_owned()];
    arguments.extend_from_slice(&common.flags);
    let mut set = |key: &str, value: &str| {
        arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
    };

    if let Some(model) = &common.model {
        set("model.path", model);
    }
    if let Some(name) = &common.model_name {
        set("model.name", name);
    }
    if let Some(log) = &common.log {
        set("telemetry.log", log);
    }
    match kind {
        Kind::Prefill | Kind::Decode => {
            set("worker.id", &name);
            set("threads", &common.threads.to_string());
            set("health.listen", "127.0.0.1:0");
        }
        Kind::Kvstore => set("health.listen", "127.0.0.1:0"),
        Kind::Gateway => {}
    }
    Service { name, kind, arguments, nats_url: common.nats_url.clone() }
}

/// Returns the threads of each worker: the cores divided among the workers, at least one.
pub(crate) fn threads_each(cores: usize, workers: usize) -> usize {
    (cores / workers.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_AND_ONE: WorkerCounts = WorkerCounts { prefill: 2, decode: 1 };

    fn common() -> Common {
        Common {
            nats_url: "nats://127.0.0.1:4222".into(),
            model: Some("m.gguf".to_owned()),
            model_name: None,
            log: None,
            threads: 1,
            suffix: String::new(),
            flags: vec!["--set".to_owned(), "threads=7".to_owned()],
        }
    }

    #[test]
    fn every_service_has_a_name_of_its_own() {
        let names: Vec<String> =
            services(&common(), TWO_AND_ONE).into_iter().map(|service| service.name).collect();
        assert_eq!(names, ["kvstore", "prefill-1", "prefill-2", "decode-1", "gateway"]);
    }

    #[test]
    fn decisions_of_up_come_after_the_flags_of_the_user() {
        let services = services(&common(), TWO_AND_ONE);
        let arguments = &services[1].arguments;
        let place = |text: &str| arguments.iter().position(|argument| argument == text).unwrap();
        assert!(place("threads=7") < place("threads=1"));
        assert_eq!(arguments[..2], ["prefill", "--tethered"]);
    }

    #[test]
    fn no_command_line_holds_the_password_of_nats() {
        let nats_url: NatsUrl = "nats://user:secret@10.0.0.1:4222".into();
        for service in services(&Common { nats_url: nats_url.clone(), ..common() }, TWO_AND_ONE) {
            assert_eq!(service.nats_url, nats_url, "{}", service.name);
            let words = &service.arguments;
            assert!(!words.iter().any(|word| word.contains("secret")), "{words:?}");
        }
    }

    #[test]
    fn the_gateway_stops_first_and_the_store_last() {
        let mut kinds = [Kind::Kvstore, Kind::Decode, Kind::Gateway];
        kinds.sort_by_key(|kind| kind.stop_order());
        assert_eq!(kinds, [Kind::Gateway, Kind::Decode, Kind::Kvstore]);
    }

    #[test]
    fn a_worker_has_at_least_one_thread() {
        assert_eq!(threads_each(2, 2), 1);
        assert_eq!(threads_each(2, 5), 1);
        assert_eq!(threads_each(16, 3), 5);
        assert_eq!(threads_each(4, 0), 4);
    }
}
