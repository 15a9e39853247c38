"""What preference optimisation converges to, by computation."""
