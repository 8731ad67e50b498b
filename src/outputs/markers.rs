//! Marker files: the held word.
