//! Named tasks.
