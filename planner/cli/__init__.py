"""The command line: running a command, exit codes, and how errors are printed."""
