"""From prompts to answers: reading prompts once, generation, search in the catalog's trie, rollout servers."""
