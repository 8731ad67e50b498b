//! (architecture page: written with app.rs)

pub mod app;
pub mod clock;
pub mod config;
pub mod identity;
pub mod latches;
pub mod observation;
pub mod state;
pub mod supervise;

pub mod probes;

pub mod health;

pub mod answer;
pub mod snapshot;

pub mod outputs;

pub mod cli;
pub mod systemd;
pub mod telemetry;
