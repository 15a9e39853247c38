"""Prompt groups as tensors: how completions share a prompt, and what attends to what."""
