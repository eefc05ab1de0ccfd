"""What every room shares: errors, paths, settings, logging, the run directory, and processes that read untrusted input."""
