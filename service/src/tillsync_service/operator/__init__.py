"""The operator's side of the wire. It knows the service by its contract only."""

import os

# Read when grpc is first imported: its own log would stand around the one line that says what is
# wrong.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
