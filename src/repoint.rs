//! ACT: the app uses the database that the region's authority says, and no other.
//!
//! ```text
//!  wanted (authority)                      agent, no rights                                root
//!       |          decision.json, request                      repoint-apply: render -> write -> apply
//!   plan ------------------------------------------------------>  outputs: env, json, proxy
//!  (pure)  <------------------- result -------------------------
//!       |  verify: by SQL, TCP or HTTP, on the app's path
//!       v
//!   verified, or rolled back: to what was there before if that is allowed now, else to no writer
//! ```
//!
//! The agent decides by names of regions only. Hosts come from the configuration that root owns, so whoever takes over
//! the agent can choose between the two databases of this deployment and nothing else.

pub mod apply;
pub mod decision;
pub mod files;
pub mod gate;
pub mod look;
pub mod plan;
pub mod render;
pub mod run;
pub mod sessions;
pub mod set;
pub mod sql;
mod unit;
pub mod verify;
pub mod words;

/// The root helper's verb.
pub const VERB: &str = "repoint-apply";
