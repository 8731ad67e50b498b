//! DECIDE, together: what the other members of the group see, and whose fault a fault is. Pure but for the questions
//! (`ask`, `run`, `refresh`) and what is read from the disk (`keys`, `membership`).
//!
//! Members tell each other raw facts with ages ([`word`]); each makes its own votes of them ([`vote`]) and from several
//! rounds of votes the domain of its own faults ([`attribution`]). Nobody's verdict counts anywhere else.

pub mod ask;
pub mod attribution;
pub mod guests;
pub mod keys;
pub mod membership;
pub mod peers;
pub mod refresh;
pub mod run;
pub mod view;
pub mod vote;
pub mod word;
