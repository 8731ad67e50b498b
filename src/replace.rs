//! ACT: repairing this instance, and marking it Unhealthy in its Auto Scaling group when that is the only cure left.

pub mod look;
