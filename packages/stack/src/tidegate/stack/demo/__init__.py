"""The demo: one model delivered, one rolled back, on real flights, before your eyes."""
