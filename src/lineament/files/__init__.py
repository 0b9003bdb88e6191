"""Files: one place that reads them, one that writes them, one that names them, and one that knows whose they are."""
