"""The HTTP server of a process: start, drain, limits, timeouts and error bodies; it knows no application."""
