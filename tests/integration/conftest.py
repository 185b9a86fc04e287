"""A service that a test starts alone asks nobody who they are; the lock has its own tests (core, and e2e/test_access)."""

import os

os.environ.setdefault("TIDEGATE_INSECURE", "true")
