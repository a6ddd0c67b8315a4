"""Plans and runs as tables and figures."""
