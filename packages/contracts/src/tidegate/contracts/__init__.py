"""The public contract in Python: names, topics and the event codec around the generated messages of ``tidegate.v1``."""
