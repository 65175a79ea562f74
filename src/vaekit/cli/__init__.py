"""The command line: flags to calls, and errors to exit codes."""
