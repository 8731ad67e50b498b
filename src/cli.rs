//! EMPTY until its own commit: replaced whole by whoever owns this file.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
