"""Local geometry of task updates around the operating point (protocol, section 7; arXiv 2607.16821)."""
