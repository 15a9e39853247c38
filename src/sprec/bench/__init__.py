"""The engine against its peers: the same work by both, in turn on the same machine."""
