"""The page about adapters side by side."""
