"""What the registry remembers, as rows: tables and their migrations, versions, aliases, policies, answers of lookups."""
