//! ACT: repairing this instance, and marking it Unhealthy in its Auto Scaling group when that is the only cure left.
//!
//! ```text
//!   Snapshot, Memory, Records, Looked --> plan.rs (pure) --> Plan
//!                                                             |
//!        Repair  Look  Ask                 Go                 v
//!          |      |     |                  |                run.rs (thin)
//!      helper   Auto   members' grants   Auto Scaling
//!      (root)  Scaling (grants.rs, pure)
//! ```
//!
//! The same plan is what `explain`, `status`, `check` and observe mode show.

pub mod api;
pub mod ask;
pub mod grants;
pub mod ladder;
pub mod look;
pub mod memory;
pub mod outlook;
pub mod plan;
pub mod records;
pub mod refusal;
pub mod run;
pub mod store;
