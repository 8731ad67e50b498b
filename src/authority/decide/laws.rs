//! Laws that hold whatever the sources say and in whatever order.
