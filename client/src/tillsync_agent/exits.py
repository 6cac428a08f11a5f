"""The exit codes of every command, as `tillsync-agent --help` tells them. Pure."""

ATTENTION, USAGE, UNUSABLE, IDENTITY = 1, 2, 3, 4
EPILOG = "Exit codes: 0 done; 1 not done yet; 2 usage; 3 outbox not usable; 4 not enrolled."
