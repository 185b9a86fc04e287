"""What the registry remembers, as rows: tables and migrations, versions, aliases, policies, answers of lookups."""
