"""From a policy and a catalog to top-k items. Names are imported from their modules."""
