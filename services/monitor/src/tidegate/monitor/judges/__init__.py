"""The pure judges: sequential tests whose verdict stays valid however often it is looked at (e-processes)."""
