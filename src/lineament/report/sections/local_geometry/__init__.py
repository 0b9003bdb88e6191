"""What the report shows of the local geometry around an operating point."""
