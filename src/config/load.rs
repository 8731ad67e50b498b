//! Reading and validating the file.
