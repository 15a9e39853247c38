"""The engine against its peers: the same work through both, side by side on the machine at hand."""
