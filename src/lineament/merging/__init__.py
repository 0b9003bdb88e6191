"""Adapters side by side, before they are merged: what each holds, what they share, and how they meet on one base."""
