"""Prompt groups as tensors: how completions share a prompt, and which tokens attend to which."""
