"""Backup, restore and audit of what the registry remembers: its database, and the objects that the database names."""
