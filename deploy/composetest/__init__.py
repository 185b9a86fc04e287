"""Starts ``docker-compose.yml`` for real, plays the demo's story on it, and takes everything down again."""
