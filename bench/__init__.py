"""The benchmarks: each measures Tidegate and, in the same run, the bare thing that it stands on."""

import os

# Programs are started while gRPC's threads run: its handlers would use descriptors in the child that are closed there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
