"""A language model and its tokenizer: made, loaded, saved, identified, sharded."""
