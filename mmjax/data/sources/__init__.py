"""Where records come from: one module a format, and one that opens them by their specification."""
