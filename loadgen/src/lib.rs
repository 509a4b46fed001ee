//! Open-loop load generation for servers that speak the OpenAI API, with reports that judge
//! themselves.
//!
//! One pipeline, a module for each of its rooms; a room uses only those below it:
//!
//! 1. [`plan`]: every request with its absolute send time, made before anything is sent.
//! 2. [`send`]: sends each request at its time over HTTP and stamps its reply.
//! 3. [`measure`]: intervals, windows and expected cache hits of the samples.
//! 4. [`watch`]: progress, `/metrics` and annotations while a run goes on.
//! 5. [`report`]: all figures of a run, the verdict on them, and their renderings.
//! 6. [`run`]: one run from its flags to its report.
//! 7. [`search`], [`compare`], [`calibrate`]: programs over runs and reports.
//! 8. [`cli`]: the command line.
//!
//! Traces are read by the crate `traces`. Nothing a server does moves a plan.
//!
//! # Load from another program
//!
//! [`send::client::Client::exchange`] sends one streamed completion and stamps its reply;
//! [`send::Runner`] sends a whole [`plan::Plan`], with `()` as its display. Neither needs the
//! command line or a terminal:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use loadgen::plan::body::Endpoint;
//! use loadgen::send::client::{Call, Client, ServerAddress};
//! use loadgen::send::clock::Clock;
//! use loadgen::send::identity::Identity;
//! use loadgen::send::live::Live;
//! use loadgen::send::record::RequestRecord;
//!
//! # async fn one() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::random(0.0);
//! let url = "http://127.0.0.1:8080";
//! let client = Client::new(ServerAddress::at(url), Duration::from_secs(5), &identity.run_id())?;
//! let clock = Clock::starting_in(Duration::ZERO);
//! let body = br#"{"model":"m","prompt":"Hello","max_tokens":8,"stream":true}"#;
//!
//! let ids = identity.of(0);
//! let call = Call {
//!     endpoint: Endpoint::Completions,
//!     body: body.as_slice().into(),
//!     traceparent: ids.traceparent.clone(),
//! };
//! let mut record = RequestRecord::new(0, clock.now_ns(), ids);
//! match client.exchange(call, clock, &Live::default(), &mut record).await {
//!     Ok(()) => println!("first token after {:?} ns", record.ttft_ns(record.intended_ns)),
//!     Err(failure) => println!("{}: {}", failure.class, failure.message),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The connection goes back to the client's pool and is used again. `record.reply.tokens` holds the
//! time of every chunk with text, `record.reply.usage` the server's token counts. A series of
//! samples becomes percentiles with [`measure::intervals::Distribution`].

pub mod calibrate;
pub mod cli;
pub mod compare;
pub mod measure;
pub mod plan;
pub mod report;
pub mod run;
pub mod search;
pub mod send;
pub mod watch;
