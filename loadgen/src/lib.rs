//! Open-loop load generation for servers that speak the OpenAI API, with reports that judge
//! themselves.
//!
//! A run is planned first: [`plan`] holds every request with its absolute send time, from
//! [`arrivals`] or from a [`trace`]. [`pacer`] then hands each one out at its time, [`client`] sends
//! it, and [`report`] computes the figures. Nothing a server does moves the plan.

pub mod annotate;
pub mod arrivals;
pub mod body;
pub mod calibrate;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
mod connection;
mod due;
pub mod expected;
pub mod exposition;
mod flight;
pub mod gate;
pub mod identity;
pub mod intervals;
pub mod live;
pub mod null;
pub mod overhead;
pub mod pacer;
pub mod plan;
pub mod prefix;
pub mod progress;
pub mod prompt;
pub mod quantile;
pub mod random;
pub mod record;
pub mod repeat;
pub mod reply;
pub mod report;
pub mod run;
pub mod schedule;
pub mod search;
mod sending;
pub mod series;
pub mod session;
pub mod sse;
pub mod stages;
pub mod stamps;
mod text;
pub mod tls;
pub mod trace;
pub mod turns;
pub mod units;
pub mod vocabulary;
pub mod windows;
pub mod workload;
