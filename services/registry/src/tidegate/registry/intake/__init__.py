"""What producers bring: checked, fetched and scanned before anything of it is believed; no database is known here."""
