"""Where records come from: a module a format, what formats share, and `specs`, which opens any of them by its name."""
