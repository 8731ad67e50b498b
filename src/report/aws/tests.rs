//! What follows from what was seen.

