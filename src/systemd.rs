//! sd_notify and the watchdog.
