"""Running jobs: the same jobs in, the same records out, in this process, in local processes or on Ray."""
